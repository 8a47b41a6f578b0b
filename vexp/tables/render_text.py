"""A frame as a sheet: numbers become texts, with what a reader has to know to read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vexp.sweeps.table import Column
from vexp.tables.cells import Cell
from vexp.tables.frame import Difference, Frame, TableRow
from vexp.tables.rendered import Heading, Rank, RenderedCell, RenderedLine, Sheet, ranks
from vexp.tables.significance import MIN_SEEDS, stars

DIFFERS = "≠"  # the published protocol is not ours
PROPOSED = "(proposed)"
MIXED = "(mixed)"  # a run of the row changed its engine


def sheet_of(frame: Frame) -> Sheet:
    """The whole table as texts. The best mean of a column is bold, the second underlined."""
    ranked = _ranks(frame)
    lines = [
        RenderedLine(
            (
                RenderedCell(row_label(row)),
                *(RenderedCell(row.axes[key]) for key in frame.axes),
                *(
                    RenderedCell(
                        cell_text(cell, row.column_as_shown(column), difference), rank, _value(cell)
                    )
                    for cell, column, difference, rank in zip(
                        row.cells, frame.columns, row.differences, ranked[index], strict=True
                    )
                ),
            ),
            row.row.group,
        )
        for index, row in enumerate(frame.rows)
    ]
    headings = [Heading(column.heading, column.group) for column in frame.columns]
    axes = [Heading(key, numeric=False) for key in frame.axes]
    return Sheet(
        name=frame.sweep,
        title=frame.title,
        headings=(Heading("", numeric=False), *axes, *headings),
        lines=tuple(lines),
        notes=tuple(_notes(frame)),
        origin=f"Made by `vexp table {frame.argument or frame.sweep}` from results alone.",
        records=lambda: list(_records(frame)),
        document=lambda: _document(frame),
    )


def _value(cell: Cell) -> float | None:
    """Our mean, on the metric's own scale; else the constant, or the p-value, that the cell is."""
    if cell.summary is not None:
        return cell.summary.mean
    if cell.comparison is not None:
        return cell.comparison.p
    return cell.published.value if cell.published is not None and not cell.declared else None


def row_label(row: TableRow) -> str:
    """The row's label; a point that the paper does not state says so, and so do mixed runs."""
    marks = [PROPOSED] if row.row.proposed else []
    marks += [MIXED] if any(m.mixed for cell in row.cells for m in cell.measured) else []
    return " ".join(filter(None, [row.row.heading, *marks]))


def number(value: float, column: Column, *, signed: bool = False) -> str:
    """A value on the column's scale with the column's decimals; never a negative zero."""
    scaled = round(value * (100 if column.scale == "percent" else 1), column.decimals) + 0.0
    return f"{scaled:{'+' if signed else ''}.{column.decimals}f}"


def cell_text(cell: Cell, column: Column, difference: Difference | None = None) -> str:
    """`48.3 ± 1.2 (n=2)`, `48.3 (n=1)`, `48.3 (1/2)` when runs are missing, `0/2` when all are.

    Then the difference to the baseline with its stars, and the published number with ours minus it.
    """
    if cell.text is not None:
        return cell.text
    if not cell.declared:
        return _constant(cell)
    return _measured(cell, column) + _difference(difference, column) + _beside(cell, column)


def _measured(cell: Cell, column: Column) -> str:
    summary = cell.summary
    if summary is None:
        return f"0/{cell.declared}"
    spread = f" ± {number(summary.sd, column)}" if summary.sd is not None else ""
    whole = summary.n == cell.declared
    count = f"n={summary.n}" if whole else f"{summary.n}/{cell.declared}"
    return f"{number(summary.mean, column)}{spread} ({count})"


def _difference(difference: Difference | None, column: Column) -> str:
    if difference is None:
        return ""
    return f" Δ {number(difference.mean, column, signed=True)}{stars(difference.p)}"


def _beside(cell: Cell, column: Column) -> str:
    if cell.published is None:
        return ""
    mark = f" {DIFFERS}" if cell.published.differs else ""
    if cell.summary is None:
        return f" | {cell.published.text}{mark}"
    ours = number(cell.summary.mean - cell.published.value, column, signed=True)
    return f" | {cell.published.text} | {ours}{mark}"


def _constant(cell: Cell) -> str:
    """A constant of a row that is not run, or a row's p-value beside the published one."""
    published = cell.published.text if cell.published else ""
    if cell.comparison is not None:
        ours = f"{cell.comparison.p:.3f} (n={cell.comparison.n})"
        return f"{ours} | {published}" if published else ours
    return published or "-"


def _ranks(frame: Frame) -> list[list[Rank]]:
    """By row and column: among our own means of three rows or more that share a scale."""
    by_column: list[list[Rank]] = []
    one_scale = all(row.row.scale is None for row in frame.rows)
    for index, column in enumerate(frame.columns):
        summaries = [row.cells[index].summary for row in frame.rows]
        enough = one_scale and column.ranked and len([s for s in summaries if s]) >= 3
        means = [s.mean if s and enough else None for s in summaries]
        by_column.append(ranks(means, higher_is_better=column.ranked == "higher"))
    return [list(of_row) for of_row in zip(*by_column, strict=True)]


def _notes(frame: Frame) -> Iterator[str]:
    """What a reader has to know to read the cells; only what this table uses."""
    cells = [cell for row in frame.rows for cell in row.cells]
    if any(cell.summary and cell.summary.sd is not None for cell in cells):
        yield "mean ± sample standard deviation over seeds (n runs)"
    if any(len(cell.measured) == 1 for cell in cells):
        yield "a single run has no spread"
    if any(len(cell.measured) < cell.declared for cell in cells):
        yield "1/2: one of two declared runs is finished"
    if any(rank for row in _ranks(frame) for rank in row):
        yield "bold: best mean of the column, underlined: second; no claim that they differ"
    yield from _baseline_notes(frame)
    yield from _test_notes(frame)
    yield from _published_notes(frame)
    if any(row.row.proposed for row in frame.rows):
        yield f"{PROPOSED}: a point that the paper does not state"
    told = {m.run: m.mixed for cell in cells for m in cell.measured if m.mixed}
    for run, switched in sorted(told.items()):
        yield f"{switched}, in run {run}"
    yield from frame.notes
    yield from frame.remarks


def _test_notes(frame: Frame) -> Iterator[str]:
    """The tests behind p-values."""
    tested = [row.row.test for row in frame.rows if any(cell.comparison for cell in row.cells)]
    if "seeds" in tested:
        yield "p: two-sided paired t-test over n seeds, not corrected"
    if "sampled_runs" in tested:
        yield (
            "p: two-sided Welch t-test between the n sampled runs of two checkpoints, those of the "
            "first seed, not corrected; it says nothing of other training seeds"
        )
    for row in frame.rows:
        untested = row.row.test == "sampled_runs" and not any(cell.comparison for cell in row.cells)
        if untested and frame.finished:
            yield (
                f"{row.row.heading}: no cell has sampled runs of both rows; evaluate them by "
                "`avg_at_k`, or by `lmms_eval` with k=8 and temperature=1"
            )


def _baseline_notes(frame: Frame) -> Iterator[str]:
    if frame.baseline is None:
        return
    yield f"Δ: difference to {frame.baseline}, over the seeds that both have"
    found = [d for row in frame.rows for d in row.differences if d]
    if any(difference.p is not None for difference in found):
        yield (
            "*, **, ***: p below 0.05, 0.01, 0.001 in a paired t-test over seeds, with Holm's "
            "correction over the rows of the column"
        )
    if any(difference.n < MIN_SEEDS for difference in found):
        yield f"differences over fewer than {MIN_SEEDS} seeds are not tested"


def _published_notes(frame: Frame) -> Iterator[str]:
    cells = [(row, cell) for row in frame.rows for cell in row.cells if cell.published]
    if not cells:
        return
    if any(cell.declared for _, cell in cells):
        yield f"ours | published ({frame.reference}) | difference of the means"
    if any(not cell.declared for _, cell in cells):
        yield f"rows without n: constants from {frame.reference}, not measured here"
    reasons: dict[str, dict[str, None]] = {}
    for row, cell in cells:
        for why in cell.published.differs if cell.published else ():
            reasons.setdefault(why, {})[row_label(row)] = None
    for why, rows in reasons.items():
        all_rows = len(rows) == len({row_label(row) for row, cell in cells if cell.declared})
        yield f"{DIFFERS} {why} ({'all rows' if all_rows else ', '.join(rows)})"


def _records(frame: Frame) -> Iterator[Mapping[str, Any]]:
    for row, column, cell, difference in _cells(frame):
        summary = cell.summary
        yield {
            "row": row.row.name,
            "label": row.row.heading,
            "group": row.row.group,
            **{key: row.axes[key] for key in frame.axes},
            "column": column.key,
            "evaluator": column.evaluator if column.metric else "",
            "metric": row.row.metric or column.metric,
            "n": len(cell.measured),
            "declared": cell.declared,
            "mean": summary.mean if summary else None,
            "sd": summary.sd if summary else None,
            "difference": difference.mean if difference else None,
            "p_holm": difference.p if difference else None,
            "published": cell.published.value if cell.published else None,
            "text": cell.text,
        }


def _document(frame: Frame) -> dict[str, Any]:
    return {
        "format": 2,
        "sweep": frame.sweep,
        "title": frame.title,
        "spread": "sample standard deviation over runs (n - 1)",
        "test": "paired t-test over seeds, Holm's correction over the rows of a column",
        "baseline": frame.baseline,
        "reference": frame.reference or None,
        "axes": list(frame.axes),
        "columns": [
            {"id": c.key, "evaluator": c.evaluator if c.metric else None,
             "metric": c.metric or None, "benchmark": c.benchmark or None,
             "average": list(c.average) or None, "cost": c.cost or None,
             "label": c.label or c.key, "group": c.group, "scale": c.scale}
            for c in frame.columns
        ],
        "rows": [
            {"row": r.row.name, "label": r.row.heading, "group": r.row.group,
             "external": r.row.external, "proposed": r.row.proposed, "axes": dict(r.axes),
             "cells": [_cell(c, d) for c, d in zip(r.cells, r.differences, strict=True)]}
            for r in frame.rows
        ],
        "notes": list(_notes(frame)),
    }  # fmt: skip


def _cell(cell: Cell, difference: Difference | None) -> dict[str, Any]:
    summary, published, test = cell.summary, cell.published, cell.comparison
    return {
        "n": len(cell.measured),
        "declared": cell.declared,
        "mean": summary.mean if summary else None,
        "sd": summary.sd if summary else None,
        "difference": difference.mean if difference else None,
        "pairs": difference.n if difference else None,
        "p_holm": difference.p if difference else None,
        "p": test.p if test else None,
        "published": published.value if published else None,
        "differs": list(published.differs) if published else [],
        "text": cell.text,
        "values": [
            {"run": m.run, "seed": m.seed, "value": m.score.value,
             "stderr": m.score.stderr, "items": m.score.items,
             **({"mixed": m.mixed} if m.mixed else {})}
            for m in cell.measured
        ],
    }  # fmt: skip


def _cells(frame: Frame) -> Iterator[tuple[TableRow, Column, Cell, Difference | None]]:
    for row in frame.rows:
        parts: Sequence[tuple[Column, Cell, Difference | None]] = list(
            zip(frame.columns, row.cells, row.differences, strict=True)
        )
        for column, cell, difference in parts:
            yield row, column, cell, difference
