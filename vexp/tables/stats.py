"""Mean, spread and differences over seeds; functions of numbers alone."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Summary:
    """Of n values: their mean, and from two on their sample standard deviation (n - 1)."""

    n: int
    mean: float
    sd: float | None


def summarize(values: Sequence[float]) -> Summary | None:
    """Mean and spread of finite values, exactly rounded sums; None if there are none."""
    if not values:
        return None
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(1, mean, None)
    return Summary(n, mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1)))


def paired_difference(ours: Mapping[K, float], theirs: Mapping[K, float]) -> float | None:
    """Mean of ours - theirs over the keys that both have; None if they share none."""
    shared = [key for key in ours if key in theirs]
    if not shared:
        return None
    return math.fsum(ours[key] - theirs[key] for key in shared) / len(shared)
