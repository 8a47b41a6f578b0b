"""Is a difference more than chance? For methods over seeds, for two checkpoints over samples.

A claim about a method has seeds as its unit: `paired_t` over at least `MIN_SEEDS` pairs, and `holm`
over the rows of a column. `welch_t` compares two checkpoints by their sampled runs, `mcnemar` and
`paired_bootstrap` on the same questions; they say nothing about a method, whose next seed may well
turn the difference round.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vexp.tables.stats import Summary, summarize

MIN_SEEDS = 3  # fewer pairs are never tested
# Differences whose spread is this small a part of their size are one number, up to rounding.
_SAME = 1e-9


@dataclass(frozen=True)
class TTest:
    """Two-sided t-test."""

    n: int  # pairs; or sampled runs of each checkpoint, of the one with fewer
    mean: float  # of ours - theirs
    statistic: float
    p: float


def paired_t(ours: Sequence[float], theirs: Sequence[float]) -> TTest | None:
    """Student's paired t-test; the same position is the same seed.

    None where nothing can be said: below `MIN_SEEDS` pairs, and where all differences are the same
    number other than 0, which has no spread to hold against it. All-zero differences have p = 1.

    Raises:
        ValueError: for sequences of different lengths.
    """
    from scipy.special import stdtr  # scipy.stats would take ten times as long to import

    summary = summarize([a - b for a, b in zip(ours, theirs, strict=True)])
    if summary is None or summary.n < MIN_SEEDS or summary.sd is None:
        return None
    n, mean, sd = summary.n, summary.mean, summary.sd
    size = max((abs(value) for value in (*ours, *theirs)), default=0.0)
    if sd <= _SAME * size:
        return TTest(n, 0.0, 0.0, 1.0) if abs(mean) <= _SAME * size else None
    statistic = mean / (sd / math.sqrt(n))
    return TTest(n, mean, statistic, float(2 * stdtr(n - 1, -abs(statistic))))


def welch_t(ours: Summary, theirs: Summary) -> TTest | None:
    """Welch's t-test of two checkpoints' scores, each over several sampled runs of one evaluation.

    With equally many runs its statistic is Student's. VICRA, table 3, does not say which of the two
    its t-test is. None where there is nothing to hold a difference against: fewer than two runs of
    one, or no spread at all.
    """
    from scipy.special import stdtr

    if ours.sd is None or theirs.sd is None:
        return None
    parts = [each.sd**2 / each.n for each in (ours, theirs) if each.sd is not None]
    variance, mean = math.fsum(parts), ours.mean - theirs.mean
    if math.sqrt(variance) <= _SAME * max(abs(ours.mean), abs(theirs.mean)):
        return None
    freedom = variance**2 / (parts[0] ** 2 / (ours.n - 1) + parts[1] ** 2 / (theirs.n - 1))
    statistic = mean / math.sqrt(variance)
    p = float(2 * stdtr(freedom, -abs(statistic)))
    return TTest(min(ours.n, theirs.n), mean, statistic, p)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment of one family of tests (Holm 1979); None stays None."""
    tested = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        adjusted[index] = largest
    return adjusted


def stars(p: float | None) -> str:
    """`*` below 0.05, `**` below 0.01, `***` below 0.001; nothing for an untested difference."""
    return "" if p is None else "*" * sum(p < level for level in (0.05, 0.01, 0.001))


@dataclass(frozen=True)
class McNemar:
    """Exact McNemar test of two checkpoints on the same questions."""

    better: int  # questions that only ours answers correctly
    worse: int  # questions that only theirs answers correctly
    p: float


def mcnemar(ours: Mapping[str, float], theirs: Mapping[str, float]) -> McNemar:
    """Two-sided exact test of verdicts (1 right, 0 wrong) by question id.

    Raises:
        ValueError: if the two did not answer the same questions, or a verdict is partial.
    """
    from scipy.special import bdtr

    pairs = _pairs(ours, theirs)
    if any(value not in (0, 1) for pair in pairs for value in pair):
        raise ValueError("McNemar's test takes verdicts that are right or wrong, not partial")
    better = sum(a > b for a, b in pairs)
    worse = sum(a < b for a, b in pairs)
    p = min(1.0, float(2 * bdtr(min(better, worse), better + worse, 0.5)))
    return McNemar(better, worse, p)


@dataclass(frozen=True)
class Interval:
    """A mean difference over samples with its percentile interval."""

    mean: float
    low: float
    high: float


def paired_bootstrap(
    ours: Mapping[str, float],
    theirs: Mapping[str, float],
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Mean of ours - theirs with its percentile interval, questions drawn with replacement.

    The same scores give the same interval: the random numbers depend on `seed` alone.

    Raises:
        ValueError: if the two did not answer the same questions.
    """
    import numpy as np

    differences = np.array([a - b for a, b in _pairs(ours, theirs)])
    generator = np.random.default_rng(seed)
    means = np.empty(draws)
    n = len(differences)
    for index in range(draws):  # one at a time: all draws at once could take gigabytes
        means[index] = differences[generator.integers(n, size=n)].mean()
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(math.fsum(differences) / n, float(low), float(high))


def _pairs(ours: Mapping[str, float], theirs: Mapping[str, float]) -> list[tuple[float, float]]:
    if not ours or ours.keys() != theirs.keys():
        raise ValueError("a paired test needs two checkpoints that answered the same questions")
    return [(ours[name], theirs[name]) for name in sorted(ours)]
