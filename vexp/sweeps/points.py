"""From a sweep to its points: every combination of row, axis values and seed, resolved."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from vexp.config import compose, identity
from vexp.config.identity import Identity
from vexp.config.schema import Reading, to_dict
from vexp.errors import ConfigError, Problem, suggest
from vexp.spec import RunSpec, replace
from vexp.sweeps.overrides import Override
from vexp.sweeps.schema import Axis, Row, Sweep, shown_path

Resolve = Callable[..., RunSpec]


@dataclass(frozen=True)
class Point:
    """One combination that a sweep declares, and the run it stands for."""

    row: Row
    axes: Mapping[str, Any]
    seed: int | None
    overrides: tuple[str, ...]
    run: RunSpec
    identity: Identity

    @property
    def label(self) -> str:
        """How the point is named to the user, e.g. `dapo rollout.group_size=8 seed=1`."""
        parts = [self.row.name] if self.row.name else []
        parts += [f"{key}={shown_value(value)}" for key, value in self.axes.items()]
        parts += [f"seed={self.seed}"] if self.seed is not None else []
        return " ".join(parts)


@dataclass(frozen=True)
class Training:
    """One run, and all points of the sweep that it serves; its evaluators are those of them all."""

    points: tuple[Point, ...]

    @functools.cached_property
    def run(self) -> RunSpec:
        first = self.points[0].run
        evaluator = {name: e for point in self.points for name, e in point.run.evaluator.items()}
        return first if evaluator == first.evaluator else replace(first, evaluator=evaluator)

    @property
    def identity(self) -> Identity:
        return self.points[0].identity

    @property
    def label(self) -> str:
        return self.points[0].label

    @property
    def shares(self) -> str | None:
        """Name of the first stage's folder, which other runs may share; None if there is none."""
        stages = self.run.stages
        if not stages or stages[0] == "rl":
            return None
        return f"{stages[0]}-{identity.stage_key(self.run, stages[0])}"


def points(sweep: Sweep, *, config_dirs: Iterable[Path] = ()) -> list[Point]:
    """All points of a sweep, in the order of declaration: rows, then axes, then seeds.

    Raises:
        ConfigError: with the problems of all points, each said once, with the rows it is about.
    """
    dirs = tuple(config_dirs)
    found: list[Point] = []
    problems = _Problems(sweep)
    for row, chosen, seed in _combinations(sweep):
        overrides = _overrides(sweep, row, chosen, seed)
        texts = tuple(override.text for override in overrides)
        try:
            run = compose.resolve(
                texts, config_dirs=dirs, source=[override.source for override in overrides]
            )
            key = identity.training_id(run)
        except ConfigError as error:
            problems.add(error.problems, row)
            continue
        values = {axis.key: axis.values[index] for axis, index in chosen}
        found.append(Point(row, values, seed, texts, run, key))
    if problems:
        raise ConfigError(list(problems))
    if not found:
        raise ConfigError(
            Problem("`exclude` leaves nothing to run", where=shown_path(sweep.path))
        )
    wrong = [*_contradictions(sweep, found), *_unproducible(sweep, found)]
    if wrong:
        raise ConfigError(wrong)
    return found


def trainings(found: Sequence[Point]) -> list[Training]:
    """Points with the same training id collapse into one run; the order of the first ones stays."""
    by_hash: dict[str, list[Point]] = {}
    for point in found:
        by_hash.setdefault(point.identity.hash, []).append(point)
    return [Training(tuple(group)) for group in by_hash.values()]


def collapsed(runs: Iterable[Training]) -> list[str]:
    """For each run that serves several points, a sentence that says which."""
    return [
        f"{' = '.join(point.label for point in run.points)}: one run ({run.identity.name}), "
        "because nothing that its stages read differs"
        for run in runs
        if len(run.points) > 1
    ]


def shown_value(value: Any) -> str:
    """An axis value as the user wrote it; a component by its name."""
    if isinstance(value, Mapping):
        rest = [f"{key}={shown_value(item)}" for key, item in value.items() if key != "name"]
        named = [str(value["name"])] if "name" in value else []
        return " ".join([*named, *rest])
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list):
        return f"[{', '.join(map(shown_value, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _combinations(
    sweep: Sweep,
) -> Iterator[tuple[Row, tuple[tuple[Axis, int], ...], int | None]]:
    choices = [[(axis, index) for index in range(len(axis.values))] for axis in sweep.axes]
    seeds: tuple[int | None, ...] = sweep.seeds or (None,)
    for row, *chosen in itertools.product(sweep.rows, *choices):
        for seed in seeds:
            values = {axis.key: axis.values[index] for axis, index in chosen}
            here = {**values, "row": row.name, "seed": seed}
            excluded = any(
                all(here[key] == value for key, value in entry.items()) for entry in sweep.exclude
            )
            if not excluded:
                yield row, tuple(chosen), seed


def _overrides(
    sweep: Sweep, row: Row, chosen: Iterable[tuple[Axis, int]], seed: int | None
) -> tuple[Override, ...]:
    axes = (override for axis, index in chosen for override in axis.overrides[index])
    seeds = () if seed is None else (Override(f"seed={seed}", f"{shown_path(sweep.path)}: seeds"),)
    return (*sweep.base, *row.overrides, *axes, *seeds, *sweep.extra)


class _Problems:
    """Collects the problems of many points; the same one in several rows is said once."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._rows: dict[Problem, list[Row]] = {}

    def __bool__(self) -> bool:
        return bool(self._rows)

    def add(self, problems: Iterable[Problem], row: Row) -> None:
        for problem in problems:
            rows = self._rows.setdefault(problem, [])
            if row not in rows:
                rows.append(row)

    def __iter__(self) -> Iterator[Problem]:
        file = shown_path(self._sweep.path)
        for problem, rows in self._rows.items():
            where = problem.where
            if len(rows) < len(self._sweep.rows) or f"{file}:" not in where:
                named = ", ".join(repr(row.name) for row in rows if row.name)
                line = f"{file}:{rows[0].line}" if rows[0].line and f"{file}:" not in where else ""
                about = f"row{'s' * (len(rows) > 1)} {named}" if named else file
                where = ", ".join(part for part in (where, line, "" if named in where else about) if part)
            yield Problem(
                problem.what, where=where, accepted=problem.accepted, remedy=problem.remedy
            )


def _contradictions(sweep: Sweep, found: Sequence[Point]) -> Iterator[Problem]:
    """What has to be the same for all runs of a sweep, and what seeds may not change."""
    shown = shown_path(sweep.path)
    for name in ("results_dir", "launcher"):
        values = {repr(getattr(point.run, name)): point for point in found}
        if len(values) > 1:
            first, other = list(values.values())[:2]
            yield Problem(
                f"`{name}` differs between {first.label!r} and {other.label!r}",
                where=shown,
                accepted="one for the whole sweep",
                remedy="set it in `base`" if name == "results_dir" else "use `launcher:`",
            )
    for run in trainings(found):
        yield from _two_evaluations(run, shown)
    for point, other in _same_but_seed(found):
        for key in differing_keys(to_dict(point.run), to_dict(other.run)):
            if key.rpartition(".")[2] != "seed":
                yield Problem(
                    f"{point.label!r} and {other.label!r} are seeds of one row, but differ in {key!r}",
                    where=shown,
                    accepted="seeds may differ in `seed` and in keys that end in `.seed`",
                    remedy="a table would average over that difference; make it a row or an axis",
                )


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
    first: dict[str, Point] = {}
    for point in found:
        key = f"{point.row.name} {point.axes!r}"
        if first.setdefault(key, point) is not point:
            yield first[key], point


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
    if sweep.table is None:
        return
    reading = Reading(origins=sweep.table_origins)
    evaluators = {name: e for point in found for name, e in point.run.evaluator.items()}
    for index, column in enumerate(sweep.table.columns):
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
        if produced and not any(fnmatchcase(column.metric, pattern) for pattern in produced):
            yield Problem(
                f"evaluator {column.evaluator!r} produces no metric {column.metric!r}",
                where=reading.where((*path, "metric")),
                accepted=suggest(column.metric, produced, noun="metrics"),
            )
