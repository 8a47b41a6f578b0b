"""The table of a sweep as data: which results stand in which cell.

A row of the table is a row of the sweep at fixed axis values, so a cell only ever averages seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vexp.errors import RunError, suggest
from vexp.sweeps.overrides import shown_value
from vexp.sweeps.points import Point
from vexp.sweeps.schema import Column, TableSpec
from vexp.tables.stats import Summary, paired_difference, summarize

ANY = "any"  # shown for an axis that a row's runs do not depend on


@dataclass(frozen=True)
class Score:
    """One measured value of one run."""

    value: float
    stderr: float | None  # over the evaluation's items
    items: int | None


# run hash -> evaluator name -> metric -> score
Results = Mapping[str, Mapping[str, Mapping[str, Score]]]


@dataclass(frozen=True)
class Measured:
    """A score, with the run and the seed it is from."""

    run: str
    seed: int | None
    score: Score


@dataclass(frozen=True)
class Cell:
    """All scores of one row in one column. A run that several seeds share counts once."""

    measured: tuple[Measured, ...]  # one for each finished run
    declared: int  # runs that there should be
    by_seed: Mapping[int | None, float]  # of every declared seed whose run is finished

    @property
    def summary(self) -> Summary | None:
        return summarize([m.score.value for m in self.measured])


@dataclass(frozen=True)
class TableRow:
    """One line of the table."""

    name: str
    label: str
    axes: Mapping[str, str]
    cells: tuple[Cell, ...]
    differences: tuple[float | None, ...]  # to the baseline, paired by seed; all None without one


@dataclass(frozen=True)
class Frame:
    """A table before it is rendered."""

    sweep: str
    title: str
    columns: tuple[Column, ...]
    axes: tuple[str, ...]
    rows: tuple[TableRow, ...]
    baseline: str | None  # its label

    @property
    def finished(self) -> int:
        """How many scores the table holds."""
        return sum(len(cell.measured) for row in self.rows for cell in row.cells)


def build_frame(sweep: str, table: TableSpec, points: Sequence[Point], results: Results) -> Frame:
    """Put every result of the declared points into its cell.

    Raises:
        RunError: for a score that is not finite or not on the column's scale, and for a finished
            evaluation without the column's metric; never skips one silently.
    """
    groups = list(_groups(table, points))
    cells = {
        key: tuple(_cell(column, group, results) for column in table.columns)
        for key, group in groups
    }
    rows = []
    for key, group in groups:
        reference = _reference(table, key, groups)
        rows.append(
            TableRow(
                name=group[0].row.name,
                label=group[0].row.heading,
                axes=dict(key[1]),
                cells=cells[key],
                differences=tuple(
                    paired_difference(ours.by_seed, cells[reference][index].by_seed)
                    if reference is not None
                    else None
                    for index, ours in enumerate(cells[key])
                ),
            )
        )
    labels = {point.row.name: point.row.heading for point in points}
    return Frame(
        sweep=sweep,
        title=table.title or sweep,
        columns=table.columns,
        axes=tuple(points[0].axes) if points else (),
        rows=tuple(rows),
        baseline=labels.get(table.baseline) if table.baseline else None,
    )


_Key = tuple[str, tuple[tuple[str, str], ...]]
_Group = tuple[_Key, list[Point]]


def _groups(table: TableSpec, points: Iterable[Point]) -> Iterator[_Group]:
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
    merged = [
        ((keys[0][0], _common([key[1] for key in keys])), by_values[keys[0]])
        for keys in same_runs.values()
    ]
    order = {name: index for index, name in enumerate(table.rows)}
    shown = [group for group in merged if not order or group[0][0] in order]
    yield from sorted(shown, key=lambda group: order.get(group[0][0], 0))


def _common(axes: Sequence[tuple[tuple[str, str], ...]]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (each[0][0], each[0][1] if len(set(each)) == 1 else ANY) for each in zip(*axes, strict=True)
    )


def _reference(table: TableSpec, key: _Key, groups: Sequence[_Group]) -> _Key | None:
    """The baseline's group at the same axis values; None for the baseline itself."""
    if table.baseline is None or key[0] == table.baseline:
        return None
    for other, _ in groups:
        pairs = zip(other[1], key[1], strict=True)
        if other[0] == table.baseline and all(a[1] in (b[1], ANY) for a, b in pairs):
            return other
    return None


def _cell(column: Column, group: Sequence[Point], results: Results) -> Cell:
    measured: dict[str, Measured] = {}
    by_seed: dict[int | None, float] = {}
    for point in group:
        score = _score(column, point, results)
        if score is not None:
            measured.setdefault(
                point.identity.hash, Measured(point.identity.name, point.seed, score)
            )
            by_seed[point.seed] = score.value
    declared = len({point.identity.hash for point in group})
    return Cell(tuple(measured.values()), declared, by_seed)


def _score(column: Column, point: Point, results: Results) -> Score | None:
    metrics = results.get(point.identity.hash, {}).get(column.evaluator)
    if metrics is None:
        return None
    where = f"evaluation {column.evaluator!r} of run {point.identity.name}"
    score = metrics.get(column.metric)
    if score is None:
        raise RunError(
            f"no metric {column.metric!r} was measured",
            where=where,
            accepted=suggest(column.metric, metrics, noun="metrics"),
            remedy="correct the column in the sweep file",
        )
    if not math.isfinite(score.value):
        raise RunError(
            f"{column.metric!r} is {score.value}, which has no mean",
            where=where,
            remedy="look at its samples.jsonl; delete that evaluation to have it done again",
        )
    if column.scale == "percent" and not 0 <= score.value <= 1:
        raise RunError(
            f"{column.metric!r} is {score.value:g}, but the column is declared as a percentage",
            where=where,
            accepted="scale: percent takes shares from 0 to 1",
            remedy="use scale: none for metrics that are not shares",
        )
    return score
