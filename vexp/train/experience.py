"""The one batch type of training: finished responses with everything an update may look at."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from vexp.dataset.base import Box
    from vexp.train.policy import Policy, PolicyOutput
    from vexp.train.prompts import PromptBatch

_PER_TOKEN = (
    "tokens",
    "mask",
    "sampling_logprobs",
    "old_logprobs",
    "reference_logprobs",
    "entropy",
    "advantages",
    "weights",
)


@dataclass(frozen=True, kw_only=True)
class Experience:
    """Responses to `prompts`; all responses with one `group` index answer that prompt.

    Nothing in it carries a gradient. What no component needs stays None.
    """

    prompts: PromptBatch
    group: Tensor  # [rollout] int64, index into prompts
    tokens: Tensor  # [rollout, token] int64, right-padded
    mask: Tensor  # [rollout, token] bool: true up to and including the end of the sequence
    rewards: Tensor  # [rollout] float64
    sampling_logprobs: Tensor  # [rollout, token] as reported by the engine
    old_logprobs: Tensor | None = (
        None  # [rollout, token]; None: one update, so those of that update
    )
    reference_logprobs: Tensor | None = None  # [rollout, token]
    entropy: Tensor | None = None  # [rollout, token] in nats, of the policy that sampled
    boxes: tuple[tuple[Box, ...], ...] | None = None  # [prompt]: the evidence, in pixels
    advantages: Tensor | None = None  # [rollout, token]
    weights: Tensor | None = None  # [rollout, token]: the loss of an update is their weighted sum

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def select(self, rows: Sequence[int]) -> Experience:
        """The given rollouts with only their prompts, cut to the longest of the responses."""
        if list(rows) == list(range(len(self))):
            return self
        index = torch.tensor(rows, dtype=torch.long, device=self.tokens.device)
        mask = self.mask.index_select(0, index)
        width = max(1, int(mask.sum(dim=1).max()))
        kept, group = torch.unique(self.group.index_select(0, index), return_inverse=True)
        per_token: dict[str, Any] = {
            name: None if (value := getattr(self, name)) is None else value[index, :width]
            for name in _PER_TOKEN
        }
        boxes = None if self.boxes is None else tuple(self.boxes[i] for i in kept.tolist())
        return dataclasses.replace(
            self,
            prompts=self.prompts.select(kept),
            group=group,
            rewards=self.rewards.index_select(0, index),
            boxes=boxes,
            **per_token,
        )


def micro_batches(group: Sequence[int], rows: Iterable[int], size: int) -> list[list[int]]:
    """`rows` in portions of at most `size`, whole groups together where they fit.

    A group that stays together has its prompt encoded once. One larger than `size` is split.
    """
    rows_of: dict[int, list[int]] = {}
    for row in rows:
        rows_of.setdefault(group[row], []).append(row)
    portions: list[list[int]] = [[]]
    for members in rows_of.values():
        for start in range(0, len(members), size):
            piece = members[start : start + size]
            if len(portions[-1]) + len(piece) > size:
                portions.append([])
            portions[-1].extend(piece)
    return [portion for portion in portions if portion]


def forward(
    policy: Policy, batch: Experience, temperature: float, *, with_entropy: bool = False
) -> PolicyOutput:
    """Log-probs of the responses under `policy`, each prompt encoded once."""
    output: PolicyOutput = policy(
        batch.prompts, batch.tokens, batch.mask, batch.group, temperature, with_entropy=with_entropy
    )
    return output


@torch.no_grad()
def observe(
    experience: Experience,
    policy: Policy,
    reference: Policy | None,
    portions: Iterable[Sequence[int]],
    *,
    old_logprobs: bool,
    entropy: bool,
    temperature: float,
) -> Experience:
    """The experience pass over `portions` of rows: old log-probs, entropy, reference log-probs.

    What is not asked for stays None; when nothing is, there is no forward pass at all.
    """
    asked = {
        "old_logprobs": old_logprobs,
        "entropy": entropy,
        "reference_logprobs": reference is not None,
    }
    shape, device = experience.tokens.shape, experience.tokens.device
    found: dict[str, Any] = {
        name: torch.zeros(shape, device=device) for name, wanted in asked.items() if wanted
    }
    for rows in portions if found else ():
        part = experience.select(rows)
        outputs: dict[str, Tensor | None] = {}
        if old_logprobs or entropy:
            output = forward(policy, part, temperature, with_entropy=entropy)
            outputs |= {"old_logprobs": output.logprobs, "entropy": output.entropy}
        if reference is not None:
            outputs["reference_logprobs"] = forward(reference, part, temperature).logprobs
        for name, target in found.items():
            if (value := outputs[name]) is not None:
                target[rows, : value.shape[1]] = value * part.mask
    return dataclasses.replace(experience, **found)
