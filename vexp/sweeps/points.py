"""From a sweep to its points: every combination of row, axis values and seed, resolved."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vexp.config.compose import resolve
from vexp.config.identity import Identity, stage_key, training_id
from vexp.errors import ConfigError, Problem
from vexp.spec import RunSpec, replace
from vexp.sweeps.overrides import Override, shown_value
from vexp.sweeps.schema import COMMAND_LINE, Axis, Row, Sweep, shown_path


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
        return f"{stages[0]}-{stage_key(self.run, stages[0])}"


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
            run = resolve(
                texts, config_dirs=dirs, source=[override.source for override in overrides]
            )
            key = training_id(run)
        except ConfigError as error:
            problems.add(error.problems, row)
            continue
        values = {axis.key: axis.values[index] for axis, index in chosen}
        found.append(Point(row, values, seed, texts, run, key))
    if problems:
        raise ConfigError(list(problems))
    if not found and any(row.runs for row in sweep.rows):
        raise ConfigError(Problem("`exclude` leaves nothing to run", where=shown_path(sweep.path)))
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


def _combinations(
    sweep: Sweep,
) -> Iterator[tuple[Row, tuple[tuple[Axis, int], ...], int | None]]:
    choices = [[(axis, index) for index in range(len(axis.values))] for axis in sweep.axes]
    seeds: tuple[int | None, ...] = sweep.seeds or (None,)
    rows = [row for row in sweep.rows if row.runs]
    for row, chosen, seed in itertools.product(rows, itertools.product(*choices), seeds):
        values = {axis.key: axis.values[index] for axis, index in chosen}
        here = {**values, "row": row.name, "seed": seed}
        matches = (all(here[k] == value for k, value in e.items()) for e in sweep.exclude)
        if not any(matches):
            yield row, chosen, seed


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
        for problem, rows in self._rows.items():
            where = self._where(problem.where, rows)
            yield Problem(
                problem.what, where=where, accepted=problem.accepted, remedy=problem.remedy
            )

    def _where(self, where: str, rows: Sequence[Row]) -> str:
        """Where a problem is, with its rows unless the place or their being all says it."""
        file = shown_path(self._sweep.path)
        placed = f"{file}:" in where or COMMAND_LINE in where
        if placed and len(rows) == len(self._sweep.rows):
            return where
        named = ", ".join(repr(row.name) for row in rows if row.name)
        about = f"row{'s' * (len(rows) > 1)} {named}" if named else file
        line = f"{file}:{rows[0].line}" if rows[0].line and not placed else ""
        return ", ".join(p for p in (where, line, "" if named in where else about) if p)
