"""1 for a right answer, 0 for a wrong one."""

from __future__ import annotations

from dataclasses import dataclass

from vexp.registry import register
from vexp.reward.base import RewardTerm, Scored


@register("reward", "accuracy")
@dataclass(frozen=True, kw_only=True)
class Accuracy(RewardTerm):
    """The verifier's verdict: 1 if the answer is right, else 0."""

    def values(self, scored: Scored) -> list[float]:
        return [verdict.correct for verdict in scored.verdicts]
