"""What the points of one sweep must have in common, and what its table may ask of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from vexp.config.schema import ConfigReading, field_types, to_dict
from vexp.errors import ConfigError, Problem, suggest
from vexp.spec.run import RunSpec
from vexp.sweeps.points import Point, Training, trainings
from vexp.sweeps.schema import Sweep, shown_path


def check(sweep: Sweep, found: Sequence[Point]) -> None:
    """Raises:
    ConfigError: with everything in which the points contradict each other or the table.
    """
    wrong = [*_contradictions(sweep, found), *_unproducible(sweep, found)] if found else []
    if wrong:
        raise ConfigError(wrong)


def _contradictions(sweep: Sweep, found: Sequence[Point]) -> Iterator[Problem]:
    """What has to be the same for all runs of a sweep, and what seeds may not change."""
    shown = shown_path(sweep.path)
    for name in ("results_dir", "launcher"):
        first = found[0]
        values = getattr(first.run, name)
        other = next((point for point in found if getattr(point.run, name) != values), None)
        if other is not None:
            yield Problem(
                f"`{name}` differs between {first.label!r} and {other.label!r}",
                where=shown,
                accepted="one for the whole sweep",
                remedy="set it in `base`" if name == "results_dir" else "use `launcher:`",
            )
    for run in trainings(found):
        yield from _two_evaluations(run, shown)
    known: dict[tuple[str, int, int], list[str]] = {}
    for point, other in _same_but_seed(found):
        for key in _differences(point.run, other.run, known):
            if key.rpartition(".")[2] != "seed":
                yield Problem(
                    f"{point.label!r} and {other.label!r} differ in {key!r}, not only in the seed",
                    where=shown,
                    accepted="seeds may differ in `seed` and in keys that end in `.seed`",
                    remedy="a table would average over that difference; make it a row or an axis",
                )


def _differences(
    one: RunSpec, other: RunSpec, known: dict[tuple[str, int, int], list[str]]
) -> Iterator[str]:
    """Dotted keys in which two runs differ; sections that they share are not looked into.

    `known` remembers sections that were compared before, by their ids.
    """
    for name in field_types(RunSpec):
        left, right = getattr(one, name), getattr(other, name)
        if left is not right:
            pair = name, id(left), id(right)
            if pair not in known:
                known[pair] = list(differing_keys(to_dict(left), to_dict(right), name))
            yield from known[pair]


def _two_evaluations(run: Training, shown: str) -> Iterator[Problem]:
    first = run.points[0]
    for other in run.points[1:]:
        for name in first.run.evaluator.keys() & other.run.evaluator.keys():
            if first.run.evaluator[name] != other.run.evaluator[name]:
                yield Problem(
                    f"{first.label!r} and {other.label!r} are one run, but evaluator {name!r} "
                    "is set differently",
                    where=shown,
                    remedy="give the two evaluators two names",
                )


def _same_but_seed(found: Sequence[Point]) -> Iterator[tuple[Point, Point]]:
    first: Point | None = None
    for point in found:
        # Points that differ in the seed alone follow each other, and share their axes.
        if first is None or point.row is not first.row or point.axes is not first.axes:
            first = point
        else:
            yield first, point


def differing_keys(left: Any, right: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys in which two resolved configs differ."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        for key in dict.fromkeys((*left, *right)):
            path = f"{prefix}.{key}" if prefix else key
            yield from differing_keys(left.get(key), right.get(key), path)
    elif left != right:
        yield prefix


def _unproducible(sweep: Sweep, found: Sequence[Point]) -> Iterator[Problem]:
    """Table columns that no run's evaluators fill."""
    if sweep.table is None or not found:
        return
    reading = ConfigReading(origins=sweep.table_origins)
    evaluators = {name: e for point in found for name, e in point.run.evaluator.items()}
    for index, column in enumerate(sweep.table.columns):
        if column.sources != ["metric"]:
            continue
        path = ("table", "columns", str(index))
        if column.evaluator not in evaluators:
            yield Problem(
                f"no run of this sweep has an evaluator {column.evaluator!r}",
                where=reading.where((*path, "evaluator")),
                accepted=suggest(column.evaluator, evaluators),
                remedy=f"add evaluator.{column.evaluator}=… to `base`",
            )
            continue
        produced = getattr(evaluators[column.evaluator], "produces", ())
        of_rows = [row.metric for row in sweep.rows if row.runs and row.metric]
        for metric in dict.fromkeys(of_rows or [column.metric]):
            if produced and not any(fnmatchcase(metric, pattern) for pattern in produced):
                yield Problem(
                    f"evaluator {column.evaluator!r} produces no metric {metric!r}",
                    where=reading.where((*path, "metric")),
                    accepted=suggest(metric, produced, noun="metrics"),
                )
