"""A published table as it is printed: groups, marks, the best bold and the second underlined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vexp.tables.reference import Reference, ReferenceRow, Value
from vexp.tables.rendered import Heading, Rank, RenderedCell, RenderedLine, Sheet, ranks

SIGNS = {"dagger": "†", "double_dagger": "‡", "asterisk": "*"}
UNDERLINED = "printed_second_best"  # a mark that the text copy of the paper kept
DOUBT = "?"
_SHARES = {"printed_gain_pct": "↑{}%", "printed_overhead_pct": "+{}%"}
_LOWER = ("seconds",)  # units of which less is better


def sheet(name: str, found: Reference) -> Sheet:
    """The whole table. Cells that are not certain carry a question mark."""
    ranked = _ranks(found)
    lines = [
        RenderedLine(
            (
                RenderedCell(row.label),
                *(
                    RenderedCell(_text(found, row, column.id), ranked.get((row.id, column.id), ""))
                    for column in found.columns
                ),
            ),
            row.group,
        )
        for row in found.rows
    ]
    headings = [Heading(column.label, column.group) for column in found.columns]
    return Sheet(
        name=name.replace("/", "-"),
        title=f"{_paper(found)}, table {found.table}: {found.title}",
        headings=(Heading("", numeric=False), *headings),
        lines=tuple(lines),
        notes=tuple(_notes(found)),
        origin=f"Made by `vexp table {name} --source published` from results/reference.",
        records=lambda: list(_records(found, ranked)),
        document=lambda: _document(name, found, ranked),
    )


def number(value: Value, unit: str) -> str:
    """A printed value: what is counted with thousands separated, the rest as transcribed."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if unit == "setting" else repr(value)
    return f"{value:,}" if isinstance(value, int) and unit == "count" else str(value)


def _paper(found: Reference) -> str:
    names = {"faithful_mr1": "Faithful-MR1", "several": "Several papers"}
    return names.get(found.paper, found.paper.upper())


def _text(found: Reference, row: ReferenceRow, column: str) -> str:
    value = row.values[column]
    text = number(value, found.unit)
    if row.spread.get(column) is not None:
        text += f" ± {number(row.spread[column], found.unit)}"
    for mark in row.marks.get(column, ()):
        key, _, given = mark.partition("=")
        text += SIGNS.get(key, "")
        text += f" ({_SHARES[key].format(given)})" if key in _SHARES else ""
    return text + DOUBT if row.doubt(column) and value is not None else text


def _ranks(found: Reference) -> dict[tuple[str, str], Rank]:
    """Computed; where the text copy kept a printed underline in a column, that one instead."""
    chosen: dict[tuple[str, str], Rank] = {}
    for column in found.columns:
        for rows in _scopes(found):
            values = [_ranked(row.values[column.id]) for row in rows]
            given = ranks(values, higher_is_better=found.unit not in _LOWER)
            printed = [UNDERLINED in row.marks.get(column.id, ()) for row in rows]
            for row, rank, underlined in zip(rows, given, printed, strict=True):
                if any(printed) and rank != "best":
                    rank = "second" if underlined else ""
                chosen[row.id, column.id] = rank
    return chosen


def _scopes(found: Reference) -> list[list[ReferenceRow]]:
    """Rows that are ranked among each other."""
    rows = [row for row in found.rows if row.kind in ("run", "external")]
    if found.best == "none":
        return []
    if found.best == "all":
        return [rows]
    if found.best == "group":
        groups = dict.fromkeys(row.group for row in rows)
        return [[row for row in rows if row.group == group] for group in groups]
    return [[row for row in rows if row.group in found.best]]


def _ranked(value: Value) -> float | None:
    return value if isinstance(value, float | int) and not isinstance(value, bool) else None


def _notes(found: Reference) -> Iterator[str]:
    checked = "" if found.provenance.verified else "; not verified against the paper"
    yield f"published numbers, nothing of it measured here; from {found.provenance.source}{checked}"
    yield f"metric: {found.metric}"
    if found.protocol:
        yield f"protocol: {found.protocol}"
    if found.best != "none":
        among = {"all": "all rows", "group": "the rows of a group"}
        rows = among[found.best] if isinstance(found.best, str) else ", ".join(found.best)
        kept = " (underlines as printed where known)" if UNDERLINED in found.marks else ""
        yield f"bold: best, underlined: second, among {rows}; computed{kept}"
    for mark, meaning in found.marks.items():
        if mark in SIGNS:
            yield f"{SIGNS[mark]}: {meaning}"
        elif mark in _SHARES:
            yield f"{_SHARES[mark].format('x')}: {meaning}"
    if any(row.ambiguous for row in found.rows):
        yield f"{DOUBT}: not certain"
    for row in found.rows:
        by_reason: dict[str, list[str]] = {}
        for column, why in row.ambiguous.items():
            by_reason.setdefault(why, []).append("all cells" if column == "*" else column)
        for why, columns in by_reason.items():
            yield f"{DOUBT} {row.label}, {', '.join(columns)}: {why}"
        if row.note:
            yield f"{row.label}: {row.note}"
    yield from found.notes


def _records(
    found: Reference, ranked: Mapping[tuple[str, str], Rank]
) -> Iterator[Mapping[str, Any]]:
    for row in found.rows:
        for column in found.columns:
            yield {
                "row": row.id,
                "label": row.label,
                "group": row.group,
                "kind": row.kind,
                "column": column.id,
                "value": row.values[column.id],
                "spread": row.spread.get(column.id),
                "marks": " ".join(row.marks.get(column.id, ())),
                "rank": ranked.get((row.id, column.id), ""),
                "ambiguous": row.doubt(column.id),
            }


def _document(
    name: str, found: Reference, ranked: Mapping[tuple[str, str], Rank]
) -> dict[str, Any]:
    return {
        "format": 1,
        "source": "published",
        "table": name,
        "title": found.title,
        "metric": found.metric,
        "unit": found.unit,
        "protocol": found.protocol or None,
        "provenance": {
            "source": found.provenance.source,
            "verified": found.provenance.verified,
        },
        "columns": [
            {"id": c.id, "label": c.label, "group": c.group, "benchmark": c.benchmark or None}
            for c in found.columns
        ],
        "rows": [
            {
                "row": row.id,
                "label": row.label,
                "group": row.group,
                "kind": row.kind,
                "settings": found.settings(row),
                "cells": {
                    column.id: {
                        "value": row.values[column.id],
                        "spread": row.spread.get(column.id),
                        "marks": list(row.marks.get(column.id, ())),
                        "rank": ranked.get((row.id, column.id)) or None,
                        "ambiguous": row.doubt(column.id),
                    }
                    for column in found.columns
                },
            }
            for row in found.rows
        ],
        "notes": list(found.notes),
    }
