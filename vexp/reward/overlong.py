"""A soft punishment for responses that come close to the length limit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vexp.config.types import NonNegative, PositiveInt
from vexp.errors import Problem
from vexp.registry import register
from vexp.reward.base import RewardTerm, Scored

if TYPE_CHECKING:
    from vexp.spec.run import RunSpec


@register("reward", "overlong")
@dataclass(frozen=True, kw_only=True)
class Overlong(RewardTerm):
    """Falls from 0 to -factor over the last `buffer` tokens before the limit.

    DAPO's soft overlong punishment (Yu et al. 2025, Eq. 13); DAPO sets the buffer to a fifth of the
    limit.
    """

    buffer: PositiveInt = 8  # tokens before rollout.max_response_length in which the term falls
    factor: NonNegative = 1.0  # DAPO's c: the punishment at the limit

    def values(self, scored: Scored) -> list[float]:
        return [self.factor * self._value(n, scored.max_response_length) for n in scored.lengths]

    def _value(self, length: int, limit: int) -> float:
        free = limit - self.buffer
        if length <= free:
            return 0.0
        return (free - length) / self.buffer if length <= limit else -1.0

    def problems(self, run: RunSpec) -> Iterator[Problem]:
        limit = run.rollout.max_response_length
        if self.buffer > limit:
            yield Problem(
                f"buffer ({self.buffer}) exceeds rollout.max_response_length ({limit})",
                accepted=f"a whole number in [1, {limit}]",
                remedy=f"DAPO uses a fifth of the limit, here {max(1, limit // 5)}",
            )
