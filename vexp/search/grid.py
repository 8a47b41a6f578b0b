"""Every combination of the space's values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vexp.errors import Problem
from vexp.registry import register
from vexp.search.base import Search

if TYPE_CHECKING:
    from optuna import Study


@register("search", "grid")
@dataclass(frozen=True, kw_only=True)
class Grid(Search):
    """Every combination of the space's values, the last key changing fastest."""

    def space_mistakes(self) -> Iterator[Problem]:
        yield from super().space_mistakes()
        for key, distribution in self.space.items():
            if distribution.size is None:
                yield Problem(f"a grid needs a step for {key!r}", where=f"space.{key}")

    @property
    def size(self) -> int | None:
        return math.prod((distribution.size or 0) for distribution in self.space.values())

    def propose(self, study: Study, number: int) -> Mapping[str, Any]:
        chosen = {}
        for key, distribution in reversed(self.space.items()):
            number, index = divmod(number, distribution.size or 1)
            chosen[key] = distribution.value(index)
        return {key: chosen[key] for key in self.space}
