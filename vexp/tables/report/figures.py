"""The charts of a report as figures for papers: one PDF and one SVG each."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vexp.files import write_bytes
from vexp.sweeps.search.plots import blank_figure
from vexp.tables.report.charts import Chart
from vexp.tables.report.contents import Report

COLOURS = ("#1b6ac9", "#c2570c", "#1a7f4b", "#8a3fc4", "#b3261e", "#007a87", "#a0457f", "#5c6770")
_DASHES = ("-", "--", ":")
_LONGEST = 60  # characters of a label
_SETTINGS = {"svg.hashsalt": "vexp", "svg.fonttype": "path", "pdf.fonttype": 42}
_NO_DATES = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}


def write_figures(report: Report, folder: Path) -> list[Path]:
    """Write them all, `curve-reward.pdf` and so on; returns the files, in order."""
    labels = [line.label for line in report.lines]
    return [path for chart in report.charts for path in _written(chart, labels, folder)]


def _written(chart: Chart, labels: Sequence[str], folder: Path) -> list[Path]:
    from matplotlib import rc_context

    found = []
    with rc_context(_SETTINGS):
        height = 1.1 + 0.28 * len(chart.series) if chart.kind == "dots" else 3.2
        figure, axes = blank_figure(height=height)
        draw = _dots if chart.kind == "dots" else _lines
        draw(axes, chart, labels)
        axes.set_xlabel(_literal(chart.x), fontsize=9)
        axes.tick_params(axis="x", labelsize=8)
        if chart.kind == "lines":
            columns = 3 if max(len(labels[each.line]) for each in chart.series) <= 24 else 1
            figure.legend(loc="outside upper left", ncols=columns, frameon=False, fontsize=7)
        for kind, metadata in _NO_DATES.items():
            content = io.BytesIO()
            figure.savefig(content, format=kind, metadata=metadata)
            found.append(folder / f"{chart.name}.{kind}")
            write_bytes(found[-1], content.getvalue())
    return found


def _lines(axes: Any, chart: Chart, labels: Sequence[str]) -> None:
    for each in chart.series:
        style = _style(each.line)
        marker = "o" if len(each.x) <= 12 else None
        label = _literal(labels[each.line])
        axes.plot(each.x, each.mean, label=label, marker=marker, markersize=3.5, **style)
        axes.fill_between(each.x, each.low, each.high, color=style["color"], alpha=0.16, lw=0)
    if chart.log_x:
        axes.set_xscale("log")
    axes.set_ylabel(_literal(chart.y), fontsize=9)
    axes.tick_params(axis="y", labelsize=8)


def _dots(axes: Any, chart: Chart, labels: Sequence[str]) -> None:
    names = [_literal(labels[each.line][:40]) for each in chart.series]
    for place, each in enumerate(chart.series):
        colour = _style(each.line)["color"]
        axes.plot([each.low[0], each.high[0]], [place, place], color=colour, linewidth=1.5)
        axes.plot(each.mean, [place], "o", color=colour, markersize=5)
    axes.axvline(0, color="#8c959f", linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()


def _style(line: int) -> dict[str, Any]:
    count = len(COLOURS)
    dash = _DASHES[line // count % len(_DASHES)]
    return {"color": COLOURS[line % count], "linestyle": dash, "linewidth": 1.5}


def _literal(text: str) -> str:
    """Text that matplotlib sets as it is: no mathematics, no leading underscore, one short line."""
    shown = " ".join(text.split())
    shown = f"{shown[: _LONGEST - 1]}…" if len(shown) > _LONGEST else shown
    shown = shown.replace("$", r"\$")
    return f"\u200b{shown}" if shown.startswith("_") else shown
