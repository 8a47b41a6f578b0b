"""Dr.GRPO: GRPO without its two biases, towards long wrong answers and towards easy groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vexp.algorithm.base import Aggregation, Algorithm, centred
from vexp.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("algorithm", "dr_grpo")
@dataclass(frozen=True, kw_only=True)
class DrGRPO(Algorithm):
    """A = R - mean, and token sums over a constant length (rollout.max_response_length).

    Liu et al. 2025, "Understanding R1-Zero-Like Training" (arXiv 2503.20783), section 3.2. The
    constant also divides the loss, so learning rates do not carry over from methods that average.

    Breaks when rewards differ in scale between prompts: nothing brings them to one scale.
    """

    aggregation: Aggregation = "seq-mean-token-sum-norm"

    def advantages(self, rewards: Tensor, group: Tensor) -> Tensor:  # [rollout]
        return centred(rewards, group)
