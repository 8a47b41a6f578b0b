"""Truncated importance sampling between the engine that samples and the model that learns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vexp.config.types import Positive
from vexp.correction.base import Correction
from vexp.errors import Problem
from vexp.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from vexp.spec.run import RunSpec


@register("correction", "truncated")
@dataclass(frozen=True, kw_only=True)
class Truncated(Correction):
    """Each token's loss times min(p_trainer / p_sampler, cap), both of the policy that sampled.

    Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training" (TIS);
    truncation: Ionides 2008, "Truncated Importance Sampling". Where sampler and trainer agree, the
    weights are 1 and nothing changes.

    Breaks when the two are far apart: the cap then biases most weights, and `mismatch/ess` falls.
    """

    cap: Positive = 2.0  # largest weight of a token

    def weights(
        self, logprobs: Tensor, sampling_logprobs: Tensor, mask: Tensor
    ) -> Tensor | None:  # [rollout, token]
        change = (logprobs - sampling_logprobs).detach().masked_fill(~mask, 0.0)
        return change.exp().clamp(max=self.cap)

    def problems(self, run: RunSpec) -> Iterator[Problem]:
        if any(draw.distortion is not None for draw in run.rollout.draws(1, max(1, run.rl.steps))):
            yield Problem(
                f"rollout {run.rollout.name!r} samples from another image than it trains on, and a "
                "correction would undo that",
                remedy="set rl.correction=none, or choose another rollout",
            )
