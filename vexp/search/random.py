"""Independent draws: the baseline of every search (Bergstra and Bengio, 2012)."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vexp.registry import register
from vexp.search.base import Distribution, Search

if TYPE_CHECKING:
    from optuna import Study


@register("search", "random")
@dataclass(frozen=True, kw_only=True)
class Random(Search):
    """Independent draws from the space (Bergstra and Bengio, 2012), a baseline for any search."""

    def propose(self, study: Study, number: int) -> Mapping[str, Any]:
        draws = random.Random(self.draw_seed(number))  # noqa: S311  (nothing here is secret)
        return {key: _draw(distribution, draws) for key, distribution in self.space.items()}


def _draw(distribution: Distribution, draws: random.Random) -> Any:
    if distribution.size is not None and not distribution.log:
        return distribution.value(draws.randrange(distribution.size))
    assert distribution.low is not None and distribution.high is not None
    low, high = distribution.low, distribution.high
    if distribution.type == "float":
        if not distribution.log:
            return draws.uniform(low, high)
        return min(max(math.exp(draws.uniform(math.log(low), math.log(high))), low), high)
    # Whole numbers: each owns the stretch of the logarithm around it.
    drawn = math.exp(draws.uniform(math.log(low - 0.5), math.log(high + 0.5)))
    return int(min(max(round(drawn), low), high))
