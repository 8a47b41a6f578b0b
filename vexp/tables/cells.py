"""What stands in one cell of a table: scores of runs, a constant, or a comparison."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from vexp.errors import Problem, RunError, suggest
from vexp.sweeps.points import Point
from vexp.sweeps.table import Column, Scale
from vexp.tables.significance import TTest
from vexp.tables.stats import Summary, summarize

# Metrics that are shares by definition, whatever their column says: first or last part of a name.
SHARES = {"accuracy", "format", "truncated", "unjudged", "evidence_mass", "pointing", "coverage"}


class Score(NamedTuple):
    """One measured value of one run; a table may hold a hundred thousand."""

    value: float
    stderr: float | None  # over the evaluation's items
    items: int | None
    version: str = ""  # of the benchmark and its scorer; scores of two versions never mix
    # Spread over sampled runs of one checkpoint, whose mean the value is, and their number: avg@k.
    sampled: tuple[float, int] | None = None

    @property
    def over_runs(self) -> Summary | None:
        """The sampled runs; None for a score that has none."""
        if self.sampled is None:
            return None
        spread, runs = self.sampled
        return Summary(runs, self.value, spread)


@dataclass(frozen=True)
class Measurements:
    """All that was measured of one finished run."""

    metrics: Mapping[str, Mapping[str, Score]]  # evaluator -> metric -> score
    benchmarks: Mapping[str, Score] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)  # phase -> mean seconds per step
    decoding: Mapping[str, str] = field(default_factory=dict)  # evaluator or benchmark -> how
    remarks: tuple[str, ...] = ()  # results that are there and do not count, each with the reason
    mixed: str = ""  # which engines it went on with, where it was switched
    damage: Mapping[str, Problem] = field(default_factory=dict)  # by what it is of


Results = Mapping[str, Measurements]  # by the run's hash


class Measured(NamedTuple):
    """A score, with the run and the seed it is from."""

    run: str
    seed: int | None
    score: Score
    mixed: str = ""  # as in `Measurements`


@dataclass(frozen=True)
class Published:
    """The number that a paper prints, on the column's scale, and how its protocol differs."""

    value: float
    text: str  # as printed
    differs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """All scores of one row in one column. A run that several seeds share counts once."""

    measured: tuple[Measured, ...] = ()  # one for each finished run
    declared: int = 0  # runs that there should be
    by_seed: Mapping[int | None, Measured] = field(default_factory=dict)  # of finished seeds
    text: str | None = None  # a constant instead
    comparison: TTest | None = None  # of two other rows
    published: Published | None = None

    @functools.cached_property
    def summary(self) -> Summary | None:
        return summarize([m.score.value for m in self.measured])

    def paired(self, other: Cell) -> list[tuple[float, float]]:
        """Scores of both at the seeds that both have; two seeds of the same two runs are one."""
        found = {
            (ours.run, theirs.run): (ours.score.value, theirs.score.value)
            for seed, ours in self.by_seed.items()
            if (theirs := other.by_seed.get(seed)) is not None
        }
        return list(found.values())


def scored(
    column: Column, group: Sequence[Point], results: Results, metric: str, scale: Scale
) -> Cell:
    """The cell of one row's points.

    Raises:
        RunError: for a score that is not finite or not on the column's scale, for scores of two
            versions of a benchmark, and for a finished evaluation without the column's metric.
    """
    measured: dict[str, Measured] = {}
    by_seed: dict[int | None, Measured] = {}
    for point in group:
        identity = point.identity
        found = results.get(identity.hash)
        score = _score(column, point, found, metric, scale) if found else None
        if found is not None and score is not None:
            entry = measured.get(identity.hash)
            if entry is None:
                entry = Measured(identity.name, point.seed, score, found.mixed)
                measured[identity.hash] = entry
            by_seed[point.seed] = entry
    versions = {m.score.version: m.run for m in measured.values()}
    if len(versions) > 1:
        (first, one), (other, two) = list(versions.items())[:2]
        raise RunError(
            f"{column.key!r} was measured with two versions of the benchmark",
            where=f"version {first!r} in run {one}, {other!r} in run {two}",
            remedy="evaluate them all with one version; a table never averages two",
        )
    declared = len({point.identity.hash for point in group})
    return Cell(tuple(measured.values()), declared, by_seed)


def averaged(parts: Sequence[Cell]) -> Cell:
    """The mean of several cells, run by run; a run that lacks one of them does not count."""
    of_run = [{m.run: m.score.value for m in part.measured} for part in parts]
    whole: dict[str, Measured] = {}
    for entry in parts[0].measured:
        values = [values[entry.run] for values in of_run if entry.run in values]
        if len(values) == len(parts):
            score = Score(math.fsum(values) / len(values), None, None)
            whole[entry.run] = Measured(entry.run, entry.seed, score, entry.mixed)
    by_seed = {s: whole[m.run] for s, m in parts[0].by_seed.items() if m.run in whole}
    return Cell(tuple(whole.values()), max(part.declared for part in parts), by_seed)


def _score(
    column: Column, point: Point, found: Measurements, metric: str, scale: Scale
) -> Score | None:
    if column.cost:
        seconds = found.costs.get(column.cost)
        return None if seconds is None else Score(seconds, None, None)
    if column.benchmark:
        own = metric != column.metric  # a row of another metric has no score of a benchmark
        score = None if own else found.benchmarks.get(column.benchmark)
    else:
        metrics = found.metrics.get(column.evaluator)
        score = None if metrics is None else metrics.get(metric)
        if metrics is not None and score is None:
            raise RunError(
                f"no metric {metric!r} was measured",
                where=_where(column, point),
                accepted=suggest(metric, metrics, noun="metrics"),
                remedy="correct the column in the sweep file",
            )
    if score is not None and not (math.isfinite(score.value) and 0 <= score.value <= 1):
        _check(score.value, column.benchmark or metric, scale, _where(column, point))
    return score


def _where(column: Column, point: Point) -> str:
    if column.benchmark:
        return f"benchmark {column.benchmark!r} of run {point.identity.name}"
    return f"evaluation {column.evaluator!r} of run {point.identity.name}"


def _check(value: float, name: str, scale: Scale, where: str) -> None:
    if not math.isfinite(value):
        raise RunError(
            f"{name!r} is {value}, which has no mean",
            where=where,
            remedy="look at its samples.jsonl; delete that evaluation to have it done again",
        )
    if not 0 <= value <= 1 and (scale == "percent" or not SHARES.isdisjoint(name.split("/"))):
        said = "the column is declared as a percentage" if scale == "percent" else "it is a share"
        raise RunError(
            f"{name!r} is {value:g}, but {said}",
            where=where,
            accepted="shares are kept as 0 to 1; scale: percent shows them times 100",
            remedy="use scale: none for metrics that are not shares; divide percent by 100",
        )
