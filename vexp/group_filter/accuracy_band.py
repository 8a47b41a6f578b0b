"""MM-Eureka's online filter: leave out groups that are nearly all right or nearly all wrong."""

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


@register("group_filter", "accuracy_band")
@dataclass(frozen=True, kw_only=True)
class AccuracyBand(GroupFilter):
    """Keeps groups whose mean accuracy lies in [low, high], both bounds included.

    Meng et al. 2025, "MM-Eureka" (arXiv 2503.07365); bounds as in the released script. Nothing is
    sampled again: a step trains on the groups that are left, and on none if there are none. The
    format reward has no part in it. `start_step` is the script's delay of the filter.

    Breaks the size of a step: it shrinks as the policy gets better, and with it the number of
    tokens that the loss is averaged over. With few responses the band is coarse: of groups of 8, it
    leaves out only those that are all right or all wrong.
    """

    low: Fraction = 0.1  # least mean accuracy of a group that trains
    high: Fraction = 0.9  # largest
    start_step: PositiveInt = 1  # first step that is filtered; before it every group trains

    def problems(self, run: RunSpec) -> Iterator[Problem]:
        if self.low > self.high:
            yield Problem(
                f"low ({self.low:g}) is above high ({self.high:g}), so no group could pass",
                remedy="the defaults are 0.1 and 0.9",
            )

    def keep(self, accuracies: Sequence[Sequence[float]], step: int) -> list[bool]:
        if step < self.start_step:
            return [True] * len(accuracies)
        return [self.low <= sum(group) / len(group) <= self.high for group in accuracies]
