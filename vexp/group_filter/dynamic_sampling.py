"""DAPO's dynamic sampling: draw more prompts until enough groups are neither solved nor failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vexp.config.types import Fraction, PositiveInt
from vexp.errors import Problem
from vexp.group_filter.base import GroupFilter
from vexp.registry import register

if TYPE_CHECKING:
    from vexp.spec.run import RunSpec


@register("group_filter", "dynamic_sampling")
@dataclass(frozen=True, kw_only=True)
class DynamicSampling(GroupFilter):
    """Keeps groups whose mean accuracy lies strictly between `low` and `high`.

    Yu et al. 2025, "DAPO" (arXiv 2503.14476), eq. 11; bounds as in EasyR1. It looks at accuracy
    alone: with a format reward in it, all-wrong groups would pass and teach nothing. When
    `max_batches` batches did not fill the step, the groups found so far train it.

    Breaks the count of prompts: a step may use up to `max_batches` times as many.
    """

    low: Fraction = 0.01  # mean accuracy has to be above this
    high: Fraction = 0.99  # and below this
    max_batches: PositiveInt = 20  # rollout batches generated for one step at most

    def problems(self, run: RunSpec) -> Iterator[Problem]:
        if self.low >= self.high:
            yield Problem(
                f"low ({self.low:g}) is not below high ({self.high:g}), so no group could pass",
                remedy="the defaults are 0.01 and 0.99",
            )

    def keep(self, accuracies: Sequence[Sequence[float]], step: int) -> list[bool]:
        return [self.low < sum(group) / len(group) < self.high for group in accuracies]
