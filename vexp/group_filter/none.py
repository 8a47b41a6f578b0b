"""Every group trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vexp.group_filter.base import GroupFilter
from vexp.registry import register


@register("group_filter", "none")
@dataclass(frozen=True, kw_only=True)
class KeepAll(GroupFilter):
    """No filter: also groups that are all right or all wrong reach the update."""

    def keep(self, accuracies: Sequence[Sequence[float]], step: int) -> list[bool]:
        return [True] * len(accuracies)
