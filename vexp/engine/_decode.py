"""The decode loop: one token per row and step through the real transformers decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vexp.engine._draw import choose
from vexp.engine._stop import stated
from vexp.engine.base import Generated, Sampling
from vexp.policy import shared_prefix as shared
from vexp.policy import stopping
from vexp.policy.log_probs import log_distribution, log_probs_of
from vexp.policy.prefix import CrossLayer, Prefix, cross_layers, mask_for, seeing
from vexp.policy.randomness import uniforms
from vexp.probe.attention import prepared

if TYPE_CHECKING:
    from vexp.policy.policy import Policy
    from vexp.policy.prompts import PromptBatch

# Finished rows are taken out of the batch once that makes it this much smaller; each time, the keys
# and values of the others are copied.
WORTH_COMPACTING = 0.75


@torch.no_grad()
def generate(
    policy: Policy, prompts: PromptBatch, item_ids: Sequence[str], sampling: Sampling
) -> Generated:
    """Sample a group of responses per prompt; see `Engine.generate`."""
    with policy.autocast():  # as a whole, so that the weights are cast once and not at every step
        return _generate(policy, prompts, item_ids, sampling)


def _generate(
    policy: Policy, prompts: PromptBatch, item_ids: Sequence[str], sampling: Sampling
) -> Generated:
    batch, device = _Batch.start(policy, prompts, sampling), policy.device
    noise = _noise(item_ids, sampling, device)
    rows, steps = len(prompts) * sampling.group_size, sampling.max_response_length
    tokens = torch.full((rows, steps), policy.pad_id, device=device)
    logprobs = torch.zeros(rows, steps, device=device)
    mask = torch.zeros(rows, steps, dtype=torch.bool, device=device)
    finished = torch.zeros(rows, dtype=torch.bool, device=device)
    width = 0
    for step in range(steps):
        stopping.check()
        distribution = log_distribution(batch.logits, policy.banned, sampling.temperature)
        uniform = None if noise is None else noise[batch.rows.flatten(), step]
        token = choose(distribution, uniform, sampling, policy.eos_id)
        alive, going = batch.alive.flatten(), batch.rows.flatten()[batch.alive.flatten()]
        tokens[going, step] = token[alive]
        logprobs[going, step] = log_probs_of(distribution, token)[alive]
        mask[going, step] = True
        width = step + 1
        stops = token == policy.eos_id
        stops[alive] |= stated(policy, tokens[going, :width], mask[going, :width], sampling)
        finished[going] = stops[alive]
        batch.alive &= ~stops.view_as(batch.alive)
        if width == steps or not bool(batch.alive.any()):
            break
        token = batch.compact(token)
        batch.advance(policy, token)
    return Generated(tokens[:, :width], mask[:, :width], logprobs[:, :width], finished)


@dataclass
class _Batch:
    """The rows being decoded: a rectangle of prompts and, for each, some of its responses."""

    rows: Tensor  # [prompt, response] which rollout each is
    alive: Tensor  # [prompt, response] bool: not finished yet
    cache: _Cache
    positions: Tensor  # [prompt x response] of the next token
    logits: Tensor  # [prompt x response, vocab] of the next token

    @classmethod
    def start(cls, policy: Policy, prompts: PromptBatch, sampling: Sampling) -> _Batch:
        prefix = policy.encode_prefix(prompts)
        size = sampling.group_size
        rows = torch.arange(len(prompts) * size, device=policy.device).view(len(prompts), size)
        return cls(
            rows=rows,
            alive=torch.ones_like(rows, dtype=torch.bool),
            cache=_Cache(policy.kernel, prefix, size, sampling.max_response_length - 1),
            positions=prefix.next_position.repeat_interleave(size),
            logits=policy.logits(prefix.last_hidden).repeat_interleave(size, dim=0),
        )

    def compact(self, token: Tensor) -> Tensor:
        """Take finished rows out, where it pays; returns the tokens of the rows that stay.

        The rows stay a rectangle: prompts with an unfinished response, and as many responses as
        the prompt with most unfinished ones has.
        """
        count = self.alive.sum(1)
        prompts = count.nonzero().squeeze(1)
        width = int(count.max())
        if len(prompts) * width > WORTH_COMPACTING * self.rows.numel():
            return token
        order = self.alive[prompts].int().argsort(dim=1, descending=True, stable=True)[:, :width]
        places = (prompts.unsqueeze(1) * self.rows.shape[1] + order).flatten()
        self.rows = self.rows.flatten()[places].view(-1, width)
        self.alive = self.alive.flatten()[places].view(-1, width)
        self.positions = self.positions[places]
        self.cache.keep(prompts, places)
        return token[places]

    def advance(self, policy: Policy, token: Tensor) -> None:
        """Feed one token per row."""
        model: Any = policy.model
        with policy.autocast():
            output = model.get_decoder()(
                inputs_embeds=model.get_input_embeddings()(token.unsqueeze(1)),
                position_ids=policy.family.decoder_positions(
                    self.positions.view(1, -1, 1).expand(3, -1, -1)
                ),
                past_key_values=self.cache,
                **self.cache.arguments(),
            )
        self.cache.steps += 1
        self.positions = self.positions + 1
        self.logits = policy.logits(output.last_hidden_state[:, 0])


class _Cache:
    """Stands in for a transformers cache: keys and values of all steps, allocated once.

    With shared-prefix attention the prefixes stay as they are, one per prompt; with other kernels
    each row's buffer begins with a copy of its prefix.
    """

    def __init__(self, kernel: str, prefix: Prefix, group_size: int, capacity: int) -> None:
        self.kernel = kernel
        self.steps = 0
        self.prefix = prefix.shared() if kernel == shared.NAME else None
        self.mask = prefix.mask.repeat_interleave(group_size, dim=0)
        self.offset = 0 if self.prefix else prefix.mask.shape[1]
        rows = len(self.mask)
        # An image's keys, in layers of cross-attention, stay as they are: one of each prompt.
        self.fixed = prefix.cross_layers
        self.images = seeing(prefix, rows)
        self.keys = self._buffers(prefix.keys, rows, capacity)
        self.values = self._buffers(prefix.values, rows, capacity)

    def _buffers(self, prefixes: list[Tensor], rows: int, capacity: int) -> list[Tensor]:
        return [
            one if number in self.fixed else self._allocate(one, rows, capacity)
            for number, one in enumerate(prefixes)
        ]

    @property
    def layers(self) -> list[CrossLayer]:
        """Where a decoder looks up an image's keys."""
        return cross_layers(self.keys, self.values) if self.fixed else []

    def _allocate(self, prefix: Tensor, rows: int, capacity: int) -> Tensor:
        _, heads, _, size = prefix.shape
        # Positions before heads, as projections leave them: a step then writes one piece per row.
        buffer = prefix.new_empty(rows, self.offset + capacity, heads, size).transpose(1, 2)
        if self.offset:
            buffer[:, :, : self.offset] = prefix.repeat_interleave(rows // len(prefix), dim=0)
        return buffer

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        here = self.offset + self.steps
        self.keys[layer][:, :, here : here + 1] = keys
        self.values[layer][:, :, here : here + 1] = values
        return self.keys[layer][:, :, : here + 1], self.values[layer][:, :, : here + 1]

    def arguments(self) -> dict[str, Any]:
        """What attention has to be told for the next step: one query per row."""
        if self.prefix:
            return {"shared_prefix": self.prefix, **prepared(None), **self.images}
        own = self.mask.new_ones(len(self.mask), self.steps + 1)
        keys = torch.cat([self.mask, own], dim=1)
        allowed = keys if "flash" in self.kernel else mask_for(self.kernel, keys[:, None, None])
        return prepared(allowed) | self.images

    def keep(self, prompts: Tensor, rows: Tensor) -> None:
        """Drop all but these prompts and rows."""
        self.keys = self._kept(self.keys, prompts, rows)
        self.values = self._kept(self.values, prompts, rows)
        self.mask = self.mask[rows]
        if self.images:
            mask, sighted = self.images.values()
            self.images = dict(zip(self.images, (mask[prompts], sighted[rows]), strict=True))
        if self.prefix:
            self.prefix = self.prefix.rows(prompts)

    def _kept(self, buffers: list[Tensor], prompts: Tensor, rows: Tensor) -> list[Tensor]:
        return [
            buffer[prompts] if number in self.fixed else _picked(buffer, rows)
            for number, buffer in enumerate(buffers)
        ]


def _picked(buffer: Tensor, rows: Tensor) -> Tensor:
    """Some rows of a buffer, in the buffer's own memory layout."""
    return buffer.transpose(1, 2)[rows].transpose(1, 2)


def _noise(item_ids: Sequence[str], sampling: Sampling, device: torch.device) -> Tensor | None:
    """[rollout, token] uniform numbers; none for greedy decoding."""
    if sampling.greedy:
        return None
    ids = [item for item in item_ids for _ in range(sampling.group_size)]
    places = list(range(sampling.first, sampling.first + sampling.group_size)) * len(item_ids)
    numbers = uniforms(
        sampling.seed, sampling.purpose, sampling.step, ids, places, sampling.max_response_length
    )
    return torch.from_numpy(numbers).to(device)
