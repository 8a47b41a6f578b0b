"""From a sweep to its points: every combination of row, axis values and seed, resolved."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vexp.errors import ConfigError, Problem
from vexp.spec.composer import Composer
from vexp.spec.identity import Identity, stage_key
from vexp.spec.run import RunSpec, replace
from vexp.sweeps.conditions import ABSENT
from vexp.sweeps.overrides import shown_value
from vexp.sweeps.schema import COMMAND_LINE, Row, Sweep
from vexp.sweeps.span import Expansion


@dataclass(frozen=True)
class Point:
    """One combination that a sweep declares, and the run it stands for."""

    row: Row
    axes: Mapping[str, Any]  # every axis of the sweep; ABSENT where one does not apply
    seed: int | None
    overrides: tuple[str, ...]
    run: RunSpec
    identity: Identity
    resources: Mapping[str, Any] = field(default_factory=dict)  # asked for, beyond the launcher's

    @property
    def label(self) -> str:
        """How the point is named to the user, e.g. `dapo rollout.group_size=8 seed=1`."""
        parts = [self.row.name] if self.row.name else []
        applied = {key: value for key, value in self.axes.items() if value is not ABSENT}
        parts += [f"{key}={shown_value(value)}" for key, value in applied.items()]
        parts += [f"seed={self.seed}"] if self.seed is not None else []
        return " ".join(parts)


@dataclass(frozen=True)
class Training:
    """One run, and all points of the sweep that it serves; its evaluators are those of them all."""

    points: tuple[Point, ...]

    @functools.cached_property
    def run(self) -> RunSpec:
        first = self.points[0].run
        if len(self.points) == 1:
            return first
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
    composer = Composer(tuple(config_dirs))
    found: list[Point] = []
    problems = _Problems(sweep)
    span = Expansion(sweep, composer, problems.add)
    for place in span.places():
        overrides = place.overrides
        texts = tuple(override.text for override in overrides)
        try:
            run = composer.resolve(texts, [override.source for override in overrides])
            key = composer.identity(run)
        except ConfigError as error:
            problems.add(error.problems, place.row)
            continue
        asked = {**span.resources(place), **run.engine.resources}
        found.append(Point(place.row, place.axes, place.seed, texts, run, key, asked))
    if problems:
        raise ConfigError(list(problems))
    if not found and any(row.runs for row in sweep.rows):
        raise ConfigError(
            Problem(
                "`exclude` leaves nothing to run",
                where=sweep.shown,
                remedy="take an entry of `exclude` out",
            )
        )
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
        file = self._sweep.shown
        placed = f"{file}:" in where or COMMAND_LINE in where
        if placed and len(rows) == len(self._sweep.rows):
            return where
        named = ", ".join(repr(row.name) for row in rows if row.name)
        about = f"row{'s' * (len(rows) > 1)} {named}" if named else file
        line = f"{file}:{rows[0].line}" if rows[0].line and not placed else ""
        return ", ".join(p for p in (where, line, "" if named in where else about) if p)
