"""Published tables, cell by cell: results/reference/<paper>/<table>.yaml.

A file holds what the paper prints and where it is from; nothing of it was measured here. Settings
stand in the paper's own keys (`vexp.tables.source_keys` maps them to ours).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vexp.config.scalars import LocatedMapping, load_yaml
from vexp.config.schema import ConfigReading, Origin, build
from vexp.errors import ConfigError, Problem, suggest
from vexp.paths import shipped

FORMAT = 1
ALL = "*"  # names every column of a row
Value = float | int | str | bool | None
Unit = Literal["percent", "count", "seconds", "setting", "text", "mixed"]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where the numbers were read."""

    source: str
    verified: bool  # against the text of the paper


@dataclass(frozen=True, kw_only=True)
class ReferenceColumn:
    """A printed column."""

    id: str
    label: str
    group: str = ""
    benchmark: str = ""  # its name in docs/reference.md
    average: tuple[str, ...] = ()  # columns that it is the mean of


@dataclass(frozen=True, kw_only=True)
class ReferenceRow:
    """A printed row. `external`: a model that was not trained for this table."""

    id: str
    label: str
    values: Any  # column -> number, text, or null for an empty cell
    kind: Literal["run", "external", "derived", "setting"] = "run"
    group: str = ""
    unit: str = ""  # of this row, where rows differ
    metric: str = ""
    config: Any = field(default_factory=dict)  # settings, in the paper's keys
    spread: Any = field(default_factory=dict)  # column -> printed ± value
    marks: Any = field(default_factory=dict)  # column -> printed marks
    ambiguous: Any = field(default_factory=dict)  # column or * -> why the cell is not certain
    note: str = ""

    def doubt(self, column: str) -> str | None:
        """Why this cell is not certain; None if it is."""
        found: str | None = self.ambiguous.get(column, self.ambiguous.get(ALL))
        return found


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One published table."""

    format: int
    paper: str
    table: str
    title: str
    metric: str
    unit: Unit
    provenance: Provenance
    columns: tuple[ReferenceColumn, ...]
    rows: tuple[ReferenceRow, ...]
    protocol: str = ""  # empty: not stated
    best: Any = "all"  # all, group, none, or the groups whose rows are ranked
    marks: dict[str, str] = field(default_factory=dict)  # mark -> what it means
    default: Any = field(default_factory=dict)  # settings of all rows, in the paper's keys
    notes: tuple[str, ...] = ()

    def row(self, name: str) -> ReferenceRow | None:
        """The row with this id."""
        return next((row for row in self.rows if row.id == name), None)

    def settings(self, row: ReferenceRow) -> dict[str, Any]:
        """All settings of a row, in the paper's keys."""
        return {**self.default, **row.config}


def names() -> list[str]:
    """Published tables by name, e.g. `ease/table3`."""
    home = shipped("reference")
    return [str(path.relative_to(home).with_suffix("")) for path in sorted(home.rglob("*.yaml"))]


@functools.cache
def load(name: str) -> Reference:
    """The published table with this name.

    Raises:
        ConfigError: if there is none, or its file is damaged; with every problem of the file.
    """
    known = names()
    if name not in known:
        raise ConfigError(
            Problem(
                f"there is no published table {name!r}",
                where="results/reference",
                accepted=suggest(name, known, noun="tables"),
            )
        )
    return read(shipped("reference") / f"{name}.yaml")


def read(path: Path) -> Reference:
    """Read and check one file.

    Raises:
        ConfigError: with every problem of the file.
    """
    tree = load_yaml(path)
    origins: dict[tuple[str, ...], Origin] = {
        (key,): Origin(f"{path.name}:{line}") for key, line in tree.lines.items()
    }
    for index, row in enumerate(tree.get("rows") or ()):
        if isinstance(row, LocatedMapping):
            line = min(row.lines.values(), default=1)
            origins[("rows", str(index))] = Origin(f"{path.name}:{line}")
    reading = ConfigReading(origins=origins)
    found = build(Reference, tree, reading)
    problems = list(_problems(found, reading))
    if problems:
        raise ConfigError(problems)
    return found


def _problems(found: Reference, reading: ConfigReading) -> Iterator[Problem]:
    ids = [column.id for column in found.columns]
    if found.format > FORMAT:
        where = reading.where(("format",))
        yield Problem("this file is of a newer vexp", where=where, remedy="update vexp")
    for what, listed in (("column", ids), ("row", [row.id for row in found.rows])):
        for name in sorted({name for name in listed if listed.count(name) > 1}):
            yield Problem(
                f"the {what} {name!r} is listed twice", where=reading.where((what + "s",))
            )
    for column in found.columns:
        for name in set(column.average) - set(ids):
            what = f"{column.id!r} is an average of {name!r}, which is no column"
            yield Problem(what, where=reading.where(("columns",)), accepted=suggest(name, ids))
    groups = {row.group for row in found.rows}
    listed_best = [found.best] if isinstance(found.best, str) else found.best
    for name in listed_best if isinstance(listed_best, list) else [str(listed_best)]:
        if name not in {"all", "group", "none", *groups}:
            where = reading.where(("best",))
            yield Problem(
                f"no group is called {name!r}", where=where, accepted=suggest(name, groups)
            )
    for index, row in enumerate(found.rows):
        for what in _row_problems(row, ids, found.marks):
            yield Problem(f"row {row.id!r}: {what}", where=reading.where(("rows", str(index))))


def _row_problems(
    row: ReferenceRow, columns: list[str], legend: Mapping[str, str]
) -> Iterator[str]:
    for name in ("values", "spread", "marks", "ambiguous", "config"):
        if not isinstance(getattr(row, name), Mapping):
            yield f"`{name}` has to be `column: value` entries"
            return
    if list(row.values) != columns:
        yield f"`values` has the columns {', '.join(row.values)}, not {', '.join(columns)}"
    for column, value in row.values.items():
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{column} is {value}"
        if not isinstance(value, float | int | str | None):
            yield f"{column} is neither a number nor text"
    for name in ("spread", "marks", "ambiguous"):
        for column in getattr(row, name).keys() - {*columns, ALL}:
            yield f"`{name}` names the column {column!r}, which is not there"
    for column, marks in row.marks.items():
        for mark in marks:
            if mark.partition("=")[0] not in legend:
                yield f"the mark {mark!r} of {column} is not in the legend `marks`"
