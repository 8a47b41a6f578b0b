"""Sensitivity: each column of the table over each numeric setting that the sweep varies.

A setting is an axis with numeric values, or a key that the rows of one group set to numbers, each
row nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from vexp.config.scalars import read_scalar
from vexp.config.schema import to_dict
from vexp.runs.record import flattened
from vexp.sweeps.schema import Row, Sweep
from vexp.sweeps.table import Column
from vexp.tables.frame import ANY, Frame, TableRow
from vexp.tables.report.charts import BAND, Chart, Section, series, slug
from vexp.tables.report.lines import Line

_WIDE = 30  # largest over smallest value from which the axis is logarithmic


@dataclass(frozen=True)
class Setting:
    """One numeric setting, and the table's rows at each of its values, by series."""

    key: str
    rows: Mapping[int, Mapping[float, int]]  # first line of the series -> value -> its row's place


def sensitivity(sweep: Sweep, frame: Frame, lines: Sequence[Line]) -> Section:
    """One chart for each setting and column that has values; empty where nothing is numeric.

    `lines` are the report's, one for each row of the frame that stands for runs, in its order.
    """
    rows = [row for row in frame.rows if row.row.runs]
    found = [*_axes(sweep, rows), *_groups(sweep, rows, lines)]
    charts = [
        chart
        for setting in found
        for index, column in enumerate(frame.columns)
        if (chart := _chart(setting, column, index, rows)).series
    ]
    return Section(charts=tuple(charts))


def _chart(setting: Setting, column: Column, index: int, rows: Sequence[TableRow]) -> Chart:
    scale = 100 if column.scale == "percent" else 1
    found = []
    for line, places in setting.rows.items():
        measured = {
            value: [entry.score.value * scale for entry in rows[place].cells[index].measured]
            for value, place in places.items()
        }
        if sum(map(bool, measured.values())) > 1:
            found.append(series(line, measured))
    values = [value for places in setting.rows.values() for value in places]
    return Chart(
        name=f"sensitivity-{slug(setting.key)}-{slug(column.key)}",
        title=f"{column.heading} over {setting.key}",
        x=setting.key,
        y=column.heading,
        series=tuple(each for each in found if each is not None),
        log_x=min(values) > 0 and max(values) / min(values) >= _WIDE,
        notes=(BAND,),
    )


def _axes(sweep: Sweep, rows: Sequence[TableRow]) -> Iterator[Setting]:
    for axis in sweep.axes:
        for index, key in enumerate(axis.keys):
            values = [_number(choice[index]) for choice in axis.choices]
            known = [value for value in values if value is not None]
            if len(set(known)) < 2 or len(known) < len(values):
                continue
            found: dict[tuple[str, ...], dict[float, int]] = {}
            for place, row in enumerate(rows):
                rest = (shown for name, shown in row.axes.items() if name not in axis.keys)
                here = found.setdefault((row.row.name, *rest), {})
                value = _number(read_scalar(row.axes[key]))
                if value is not None:
                    here[value] = place
                elif row.axes[key] == ANY:  # the setting does not matter to it: a level line
                    here |= dict.fromkeys(known, place)
            yield Setting(key, {min(v.values()): v for v in found.values() if v})


def _groups(sweep: Sweep, rows: Sequence[TableRow], lines: Sequence[Line]) -> Iterator[Setting]:
    by_group: dict[tuple[str, str], dict[float, int]] = {}
    for place, row in enumerate(rows):
        key, value = _only_number(row.row)
        if value is not None and not row.axes:
            by_group.setdefault((row.row.group, key), {})[value] = place
    for (_, key), places in by_group.items():
        if len(places) > 1:
            yield Setting(key, {min(places.values()): _baseline(sweep, key, lines) | places})


def _baseline(sweep: Sweep, key: str, lines: Sequence[Line]) -> dict[float, int]:
    """The baseline's own value of the key: one more point of the series."""
    name = sweep.table.baseline if sweep.table else None
    for place, line in enumerate(lines):
        if line.row.name == name:
            value = _number(flattened(to_dict(line.points[0].run)).get(key))
            return {} if value is None else {value: place}
    return {}


def _only_number(row: Row) -> tuple[str, float | None]:
    """The key and the value of a row that sets one key to a number."""
    if len(row.overrides) != 1:
        return "", None
    key, _, text = row.overrides[0].text.partition("=")
    return key.lstrip("+"), _number(read_scalar(text))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
