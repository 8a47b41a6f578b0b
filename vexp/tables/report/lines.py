"""The lines of a report's charts: a row of the sweep at fixed axis values, with its runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vexp.sweeps.conditions import ABSENT
from vexp.sweeps.points import Point
from vexp.sweeps.schema import Row, Sweep
from vexp.sweeps.table import TableSpec
from vexp.tables.frame import ANY, groups
from vexp.tables.render_text import PROPOSED


@dataclass(frozen=True)
class Line:
    """One line; its points differ in their seed only."""

    label: str
    axes: Mapping[str, str]  # as the table shows them
    points: tuple[Point, ...]

    @property
    def row(self) -> Row:
        return self.points[0].row

    @property
    def runs(self) -> tuple[Point, ...]:
        """The first point of each run: seeds may share one."""
        return tuple({point.identity.hash: point for point in self.points}.values())


def lines_of(sweep: Sweep, points: Sequence[Point]) -> list[Line]:
    """In the table's order; no two have the same label."""
    table = sweep.table or TableSpec(columns=())
    order = list(table.rows or [row.name for row in sweep.rows])
    grouped = sorted(groups(sweep, table, points), key=lambda entry: order.index(entry[0][0]))
    found = [(dict(axes), tuple(group)) for (_, axes), group in grouped]
    labels = [_label(group[0].row, axes) for axes, group in found]
    counts = Counter(labels)
    return [
        Line(f"{group[0].row.group}: {label}" if counts[label] > 1 else label, axes, group)
        for label, (axes, group) in zip(labels, found, strict=True)
    ]


def _label(row: Row, axes: Mapping[str, str]) -> str:
    parts = [row.heading] if row.heading else []
    parts += [f"{key}={value}" for key, value in axes.items() if value not in (ANY, ABSENT)]
    parts += [PROPOSED] if row.proposed else []
    return " ".join(parts) or "all runs"
