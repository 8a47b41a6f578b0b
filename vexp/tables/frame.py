"""The table of a sweep as data: which results stand in which cell.

A row of the table is a row of the sweep at fixed axis values, so a cell only ever averages seeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vexp.errors import Problem
from vexp.sweeps.conditions import ABSENT
from vexp.sweeps.overrides import shown_value
from vexp.sweeps.points import Point
from vexp.sweeps.schema import Row, Sweep
from vexp.sweeps.table import Column, TableSpec
from vexp.tables.cells import Cell, Results, averaged, scored
from vexp.tables.published_column import Beside
from vexp.tables.significance import TTest, holm, paired_t, welch_t
from vexp.tables.stats import summarize

ANY = "any"  # shown for an axis that a row's runs do not depend on


@dataclass(frozen=True)
class Difference:
    """Ours - theirs over the seeds that both have; p after Holm's correction over the column."""

    mean: float
    n: int  # pairs of runs
    p: float | None  # None: not tested


@dataclass(frozen=True)
class TableRow:
    """One line of the table."""

    row: Row
    axes: Mapping[str, str]
    cells: tuple[Cell, ...]
    differences: tuple[Difference | None, ...]  # to the baseline; all None without one

    def column_as_shown(self, column: Column) -> Column:
        """The column with the scale of this row's own metric, if it has one."""
        if self.row.scale is None or column.sources != ["metric"]:
            return column
        return dataclasses.replace(column, scale=self.row.scale, digits=None)


@dataclass(frozen=True)
class Frame:
    """A table before it is rendered; hidden columns are gone."""

    sweep: str
    title: str
    columns: tuple[Column, ...]
    axes: tuple[str, ...]
    rows: tuple[TableRow, ...]
    baseline: str | None  # its label
    reference: str = ""
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()  # results that do not count
    argument: str = ""  # what a command takes to mean this sweep
    damage: Mapping[str, Problem] = field(default_factory=dict)  # by what it is of

    @property
    def finished(self) -> int:
        """How many scores the table holds."""
        return sum(len(cell.measured) for row in self.rows for cell in row.cells)


_Key = tuple[str, tuple[tuple[str, str], ...]]
_Group = tuple[_Key, list[Point]]


def build_frame(sweep: Sweep, points: Sequence[Point], results: Results) -> Frame:
    """Put every result of the declared points into its cell.

    Raises:
        ConfigError: if the table's published numbers are not there.
        RunError: for results that cannot be averaged; never skips one silently.
    """
    table = sweep.table
    assert table is not None
    built = _Build(sweep, table, list(groups(sweep, table, points)), results)
    by_name = {row.name: row for row in sweep.rows}
    notes = [*table.notes]
    notes += [f"{row.heading}: {row.note}" for row in sweep.rows if row.note]
    remarks = {remark: None for found in results.values() for remark in found.remarks}
    damage = {name: wrong for found in results.values() for name, wrong in found.damage.items()}
    remarks |= {f"damaged: {name}: {wrong.what}": None for name, wrong in damage.items()}
    return Frame(
        sweep=sweep.name,
        title=table.title or sweep.name,
        columns=tuple(column for column in table.columns if not column.hidden),
        axes=_axes(points),
        rows=tuple(built.rows()),
        baseline=by_name[table.baseline].heading if table.baseline else None,
        reference=table.reference,
        notes=tuple(notes),
        remarks=tuple(sorted(remarks)),
        damage=damage,
        argument=sweep.argument,
    )


class _Build:
    """The cells of all rows, and what compares them."""

    def __init__(
        self, sweep: Sweep, table: TableSpec, groups: list[_Group], results: Results
    ) -> None:
        self.sweep, self.table, self.results = sweep, table, results
        self.groups = dict(groups)
        self.axes = _axes([point for _, group in groups for point in group])
        self.of_row: dict[str, list[_Key]] = {}
        for key in self.groups:
            self.of_row.setdefault(key[0], []).append(key)
        self.beside = Beside(table.reference, sweep)
        self.cells: dict[_Key, dict[str, Cell]] = {}
        for key, group in groups:
            self.cells[key] = self._scored(group)
        references = {key: self._reference(key) for key in self.groups}
        self.differences = {
            column.key: self._differences(column.key, references) for column in table.columns
        }

    def rows(self) -> Iterator[TableRow]:
        order = self.table.rows or [row.name for row in self.sweep.rows]
        by_name = {row.name: row for row in self.sweep.rows}
        shown = [i for i, column in enumerate(self.table.columns) if not column.hidden]
        for name in order:
            for axes, cells, differences in self._lines(by_name[name]):
                yield TableRow(
                    row=by_name[name],
                    axes=axes,
                    cells=tuple(cells[i] for i in shown),
                    differences=tuple(differences[i] for i in shown),
                )

    def _lines(
        self, row: Row
    ) -> Iterator[tuple[Mapping[str, str], list[Cell], list[Difference | None]]]:
        nothing: list[Difference | None] = [None] * len(self.table.columns)
        blank = dict.fromkeys(self.axes, "")
        if row.compares:
            yield blank, self._comparison(row), nothing
        elif row.external:
            yield blank, self._constants(row), nothing
        for key in self.of_row.get(row.name, ()):
            cells = list(self.cells[key].values())
            if not self.axes:
                cells = [
                    self.beside.placed(cell, row, column, self.groups[key], self.results)
                    for cell, column in zip(cells, self.table.columns, strict=True)
                ]
            yield (
                dict(key[1]),
                cells,
                [self.differences[c.key].get(key) for c in self.table.columns],
            )

    def _scored(self, group: Sequence[Point]) -> dict[str, Cell]:
        row = group[0].row
        found: dict[str, Cell] = {}
        for column in self.table.columns:
            if column.texts:
                found[column.key] = Cell(text=column.texts.get(row.name, ""))
            elif not column.sources:
                found[column.key] = Cell(text="")
            elif not column.average:
                metric, scale = row.metric or column.metric, row.scale or column.scale
                found[column.key] = scored(column, group, self.results, metric, scale)
        for column in self.table.columns:
            if column.average:
                parts = [found[name] for name in column.average]
                found[column.key] = averaged(parts)
        return {column.key: found[column.key] for column in self.table.columns}

    def _constants(self, row: Row) -> list[Cell]:
        return [
            Cell(text=column.texts.get(row.name, ""))
            if column.texts
            else self.beside.constant(row, column)
            for column in self.table.columns
        ]

    def _comparison(self, row: Row) -> list[Cell]:
        ours, theirs = (self.of_row[name][0] for name in row.compares)
        found = []
        for column in self.table.columns:
            both = self.cells[ours][column.key], self.cells[theirs][column.key]
            by_seeds = row.test == "seeds"
            test = _tested(both[0].paired(both[1])) if by_seeds else _between_checkpoints(*both)
            cell = Cell(comparison=test)
            found.append(self.beside.with_constant(cell, row, column))
        return found

    def _differences(
        self, column: str, references: Mapping[_Key, _Key | None]
    ) -> dict[_Key, Difference]:
        """The differences of one column to the baseline: one family of tests."""
        found: dict[_Key, tuple[float, int, float | None]] = {}
        for key, reference in references.items():
            if reference is not None:
                pairs = self.cells[key][column].paired(self.cells[reference][column])
                summary = summarize([a - b for a, b in pairs])
                test = _tested(pairs)
                if summary is not None:
                    found[key] = (summary.mean, summary.n, test.p if test else None)
        adjusted = holm([p for _, _, p in found.values()])
        return {
            key: Difference(mean, n, p)
            for (key, (mean, n, _)), p in zip(found.items(), adjusted, strict=True)
        }

    def _reference(self, key: _Key) -> _Key | None:
        """The baseline's group at the same axis values; None for the baseline itself."""
        baseline = self.table.baseline
        if baseline is None or key[0] == baseline:
            return None
        if (baseline, key[1]) in self.groups:
            return baseline, key[1]
        for other in self.of_row.get(baseline, ()):
            pairs = zip(other[1], key[1], strict=True)
            if all(a[1] in (b[1], ANY, ABSENT) for a, b in pairs):
                return other
        return None


def _axes(points: Sequence[Point]) -> tuple[str, ...]:
    return tuple(points[0].axes) if points else ()


def _tested(pairs: Sequence[tuple[float, float]]) -> TTest | None:
    return paired_t([a for a, _ in pairs], [b for _, b in pairs])


def _between_checkpoints(ours: Cell, theirs: Cell) -> TTest | None:
    """Two checkpoints by their sampled runs: those of the first seed that both have."""
    seeds = [seed for seed in ours.by_seed if seed in theirs.by_seed]
    if not seeds:
        return None
    first, second = (cell.by_seed[seeds[0]].score.over_runs for cell in (ours, theirs))
    return welch_t(first, second) if first and second else None


def groups(sweep: Sweep, table: TableSpec, points: Iterable[Point]) -> Iterator[_Group]:
    """Points by row and axis values, in the table's order.

    Axis values whose points are the very same runs become one group, with `any` for that axis.
    """
    by_values: dict[_Key, list[Point]] = {}
    for point in points:
        axes = tuple((key, shown_value(value)) for key, value in point.axes.items())
        by_values.setdefault((point.row.name, axes), []).append(point)
    same_runs: dict[tuple[str, frozenset[tuple[int | None, str]]], list[_Key]] = {}
    for key, group in by_values.items():
        runs = frozenset((point.seed, point.identity.hash) for point in group)
        same_runs.setdefault((key[0], runs), []).append(key)
    order = table.rows or [row.name for row in sweep.rows]
    for keys in same_runs.values():
        if keys[0][0] in order:
            yield (keys[0][0], _common([key[1] for key in keys])), by_values[keys[0]]


def _common(axes: Sequence[tuple[tuple[str, str], ...]]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (each[0][0], each[0][1] if len(set(each)) == 1 else ANY) for each in zip(*axes, strict=True)
    )
