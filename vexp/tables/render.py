"""A table as text: Markdown, CSV, JSON, and for the terminal. A frame always gives one text."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from vexp.sweeps.schema import Column
from vexp.tables.frame import Cell, Frame, TableRow

if TYPE_CHECKING:
    from rich.table import Table


def number(value: float, column: Column, *, signed: bool = False) -> str:
    """A value on the column's scale with the column's decimals; never a negative zero."""
    scaled = round(value * (100 if column.scale == "percent" else 1), column.decimals) + 0.0
    return f"{scaled:{'+' if signed else ''}.{column.decimals}f}"


def cell_text(cell: Cell, column: Column, difference: float | None = None) -> str:
    """`48.3 ± 1.2 (n=2)`, `48.3 (n=1)`, `48.3 (1/2)` when runs are missing, `0/2` when all are."""
    summary = cell.summary
    if summary is None:
        return f"0/{cell.declared}"
    spread = f" ± {number(summary.sd, column)}" if summary.sd is not None else ""
    whole = summary.n == cell.declared
    count = f"n={summary.n}" if whole else f"{summary.n}/{cell.declared}"
    delta = f" Δ {number(difference, column, signed=True)}" if difference is not None else ""
    return f"{number(summary.mean, column)}{spread} ({count}){delta}"


def headings(frame: Frame) -> list[str]:
    """The heading of every column, the row's label and the axes first."""
    return ["", *frame.axes, *(column.heading for column in frame.columns)]


def texts(frame: Frame, row: TableRow) -> list[str]:
    """The text of every column of one row."""
    cells = zip(row.cells, frame.columns, row.differences, strict=True)
    return [
        row.label,
        *(row.axes[key] for key in frame.axes),
        *(cell_text(cell, column, difference) for cell, column, difference in cells),
    ]


def notes(frame: Frame) -> list[str]:
    """What a reader has to know to read the cells; only what this table uses."""
    cells = [cell for row in frame.rows for cell in row.cells]
    found = []
    if any(cell.summary and cell.summary.sd is not None for cell in cells):
        found.append("mean ± sample standard deviation over seeds (n runs)")
    if any(len(cell.measured) == 1 for cell in cells):
        found.append("a single run has no spread")
    if any(len(cell.measured) < cell.declared for cell in cells):
        found.append("1/2: one of two declared runs is finished")
    if frame.baseline is not None:
        found.append(f"Δ: difference to {frame.baseline}, over the seeds that both have")
    return found


def markdown(frame: Frame) -> str:
    """GitHub's Markdown."""
    rule = [*["---"] * (1 + len(frame.axes)), *["---:"] * len(frame.columns)]
    lines = [f"# {_escaped(frame.title)}", "", _line(headings(frame)), f"|{'|'.join(rule)}|"]
    lines += [_line(texts(frame, row)) for row in frame.rows]
    lines += ["", *(f"- {_escaped(note)}" for note in notes(frame))]
    lines += ["", f"Made by `vexp table {frame.sweep}` from results alone.", ""]
    return "\n".join(lines)


def csv_text(frame: Frame) -> str:
    """One line per cell, on the metric's own scale, for scripts."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    numbers = ("n", "declared", "mean", "sd", "difference")
    writer.writerow(["row", "label", *frame.axes, "evaluator", "metric", *numbers])
    for row in frame.rows:
        axes = [row.axes[key] for key in frame.axes]
        for cell, column, difference in zip(row.cells, frame.columns, row.differences, strict=True):
            summary = cell.summary
            spread = [summary.mean, summary.sd] if summary else [None, None]
            counts = [len(cell.measured), cell.declared]
            named = [row.name, row.label, *axes, column.evaluator, column.metric]
            writer.writerow([*named, *counts, *map(_exact, [*spread, difference])])
    return out.getvalue()


def json_text(frame: Frame) -> str:
    """Everything the table knows, on the metrics' own scales."""
    content = {
        "format": 1,
        "sweep": frame.sweep,
        "title": frame.title,
        "spread": "sample standard deviation over runs (n - 1)",
        "baseline": frame.baseline,
        "axes": list(frame.axes),
        "columns": [
            {"evaluator": c.evaluator, "metric": c.metric, "label": c.label or c.metric,
             "scale": c.scale}
            for c in frame.columns
        ],
        "rows": [
            {"row": r.name, "label": r.label, "axes": dict(r.axes), "cells": list(_cells(r))}
            for r in frame.rows
        ],
    }  # fmt: skip
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def terminal(frame: Frame) -> Table:
    """For a terminal, by rich."""
    from rich.table import Table
    from rich.text import Text

    caption = Text("\n".join(notes(frame)))
    table = Table(title=Text(frame.title), caption=caption, caption_justify="left")
    for index, heading in enumerate(headings(frame)):
        table.add_column(Text(heading), justify="left" if index <= len(frame.axes) else "right")
    for row in frame.rows:
        table.add_row(*map(Text, texts(frame, row)))
    return table


# Text formats by the name that `--format` takes, which is also the file's suffix.
FORMATS: dict[str, Callable[[Frame], str]] = {"md": markdown, "csv": csv_text, "json": json_text}


def _cells(row: TableRow) -> Iterable[dict[str, Any]]:
    for cell, difference in zip(row.cells, row.differences, strict=True):
        summary = cell.summary
        yield {
            "n": len(cell.measured),
            "declared": cell.declared,
            "mean": summary.mean if summary else None,
            "sd": summary.sd if summary else None,
            "difference": difference,
            "values": [
                {"run": m.run, "seed": m.seed, "value": m.score.value,
                 "stderr": m.score.stderr, "items": m.score.items}
                for m in cell.measured
            ],
        }  # fmt: skip


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is and that stays on one line of a table."""
    for mark in "\\`*_[]<>|":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def _exact(value: float | None) -> str:
    return "" if value is None else repr(value)
