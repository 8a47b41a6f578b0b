"""Points that were written down one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vexp.errors import Problem
from vexp.registry import register
from vexp.search.base import Distribution, Search

if TYPE_CHECKING:
    from optuna import Study


@register("search", "list")
@dataclass(frozen=True, kw_only=True)
class ListSearch(Search):
    """The points listed, in their order; they take the place of a space."""

    points: tuple[dict[str, Any], ...] = ()  # each with a value for every key

    def space_mistakes(self) -> Iterator[Problem]:
        if self.space:
            yield Problem("a list of points has no space", where="space", remedy="use `points:`")
        if not self.points:
            yield Problem("there are no points", where="points", accepted="- {key: value}")
        for index, point in enumerate(self.points):
            where = f"points.{index}"
            if point.keys() != self.points[0].keys():
                yield Problem("all points have to set the same keys", where=where)
            if any(isinstance(value, Mapping | list) for value in point.values()):
                yield Problem("a point sets single values, no lists and mappings", where=where)

    @property
    def size(self) -> int | None:
        return len(self.points)

    def distributions(self) -> Mapping[str, Distribution]:
        return {
            key: Distribution(
                type="categorical", choices=tuple(dict.fromkeys(p[key] for p in self.points))
            )
            for key in self.points[0]
        }

    def propose(self, study: Study, number: int) -> Mapping[str, Any]:
        return self.points[number]
