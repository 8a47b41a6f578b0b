"""The decode loop: one token per row and step through the real transformers decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vexp.engine._draw import draw
from vexp.engine.base import Generated, Sampling
from vexp.train.logprobs import log_distribution, log_probs_of
from vexp.train.prefix import Prefix
from vexp.train.randomness import uniforms

if TYPE_CHECKING:
    from vexp.train.policy import Policy
    from vexp.train.prompts import PromptBatch


class _Buffer:
    """Stands in for a transformers cache: keys and values of all positions, allocated once."""

    def __init__(self, prefix: Prefix, prompt_index: Tensor, steps: int) -> None:
        self.length = prefix.mask.shape[1]
        self.keys = [self._allocate(k, prompt_index, steps) for k in prefix.keys]
        self.values = [self._allocate(v, prompt_index, steps) for v in prefix.values]

    def _allocate(self, prefix: Tensor, prompt_index: Tensor, steps: int) -> Tensor:
        _, heads, length, size = prefix.shape
        buffer = prefix.new_empty(len(prompt_index), heads, length + steps, size)
        buffer[:, :, :length] = prefix[prompt_index]
        return buffer

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        here, after = self.length, self.length + 1
        self.keys[layer][:, :, here:after] = keys
        self.values[layer][:, :, here:after] = values
        return self.keys[layer][:, :, :after], self.values[layer][:, :, :after]

    def keep(self, rows: Tensor) -> None:
        self.keys = [k[rows] for k in self.keys]
        self.values = [v[rows] for v in self.values]


@torch.no_grad()
def generate(
    policy: Policy, prompts: PromptBatch, item_ids: Sequence[str], sampling: Sampling
) -> Generated:
    """Sample a group of responses per prompt; see `Engine.generate`."""
    prefix = policy.encode_prefix(prompts)
    groups, size = len(prompts), sampling.group_size
    prompt_index = torch.arange(groups, device=policy.device).repeat_interleave(size)
    noise = _noise(item_ids, sampling, policy.device)
    rows, steps = len(prompt_index), sampling.max_response_length
    tokens = torch.full((rows, steps), policy.pad_id, device=policy.device)
    logprobs = torch.zeros(rows, steps, device=policy.device)
    mask = torch.zeros(rows, steps, dtype=torch.bool, device=policy.device)
    finished = torch.zeros(rows, dtype=torch.bool, device=policy.device)

    active = torch.arange(rows, device=policy.device)
    hidden = prefix.last_hidden[prompt_index]
    buffer = _Buffer(prefix, prompt_index, steps)
    keys_mask = torch.cat([prefix.mask[prompt_index], torch.ones_like(mask)], dim=1)
    positions = prefix.next_position[prompt_index]
    for step in range(steps):
        distribution = log_distribution(policy.logits(hidden), policy.banned, sampling.temperature)
        token = _choose(distribution, noise[active, step] if noise is not None else None, sampling, policy.eos_id)
        tokens[active, step] = token
        logprobs[active, step] = log_probs_of(distribution, token)
        mask[active, step] = True
        ended = token == policy.eos_id
        finished[active[ended]] = True
        going = ~ended
        if step + 1 == steps or not bool(going.any()):
            break
        if not bool(going.all()):
            active, token, positions = active[going], token[going], positions[going]
            keys_mask = keys_mask[going]
            buffer.keep(going)
        hidden = _step(policy, buffer, token, positions + step, keys_mask)
    width = step + 1
    return Generated(tokens[:, :width], mask[:, :width], logprobs[:, :width], finished)


def _step(
    policy: Policy, buffer: _Buffer, token: Tensor, positions: Tensor, keys_mask: Tensor
) -> Tensor:  # [row, hidden]
    model: Any = policy.model
    with policy.autocast():
        output = model.model.language_model(
            inputs_embeds=model.get_input_embeddings()(token.unsqueeze(1)),
            attention_mask={"full_attention": _mask(policy.kernel, keys_mask[:, : buffer.length + 1])},
            position_ids=positions.view(1, -1, 1).expand(3, -1, -1),
            past_key_values=buffer,
        )
    buffer.length += 1
    return output.last_hidden_state[:, 0]


def _mask(kernel: str, keys: Tensor) -> Tensor:
    if "flash" in kernel:
        return keys
    allowed = keys[:, None, None, :]
    if kernel == "eager":
        return torch.zeros(allowed.shape, device=keys.device).masked_fill(~allowed, -torch.inf)
    return allowed


def _choose(
    distribution: Tensor, uniform: Tensor | None, sampling: Sampling, eos_id: int
) -> Tensor:
    if sampling.ignore_eos:
        distribution = distribution.clone()
        distribution[:, eos_id] = -torch.inf
    if uniform is None:
        return distribution.argmax(-1)
    return draw(distribution, uniform, sampling.top_p)


def _noise(item_ids: Sequence[str], sampling: Sampling, device: torch.device) -> Tensor | None:
    """One uniform number per row and position; none for greedy decoding."""
    if sampling.greedy:
        return None
    ids = [item for item in item_ids for _ in range(sampling.group_size)]
    places = list(range(sampling.group_size)) * len(item_ids)
    numbers = uniforms(
        sampling.seed, sampling.purpose, sampling.step, ids, places, sampling.max_response_length
    )
    return torch.from_numpy(numbers).to(device)
