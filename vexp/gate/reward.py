"""Responses that are right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vexp.config.types import Fraction
from vexp.gate.base import Gate
from vexp.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from vexp.experience.batch import Experience


@register("gate", "reward")
@dataclass(frozen=True, kw_only=True)
class RewardGate(Gate):
    """Open where the verifier's reward is at least `threshold`: 1[R >= tau] of EASE.

    It looks at accuracy alone, never at the sum of the reward's terms: a format reward in it would
    open the gate for wrong answers.

    Breaks early in training on hard questions: with nothing right, nothing passes.
    """

    threshold: Fraction = 0.5  # accuracy from which a response passes

    def open(self, experience: Experience) -> Tensor:  # [rollout] bool
        assert experience.accuracies is not None
        return experience.accuracies >= self.threshold
