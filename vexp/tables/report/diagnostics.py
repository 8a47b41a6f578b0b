"""What the evaluator `diagnostics` found: errors by attention, and correlations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from vexp.tables.cells import Results
from vexp.tables.report.charts import BAND, DOTS, Chart, Section, Series, series, slug, without
from vexp.tables.report.lines import Line

EVALUATOR = "diagnostics"
LEAST = 50  # answers: fewer show nothing but noise
LEAST_OF_BIN = 10  # answers in a bin
REMEDY = (
    "no `diagnostics` evaluated: add `+evaluator.diagnostics=diagnostics` to the sweep's `base` "
    "and launch it again; nothing is trained anew"
)
# metric -> title, what its axis shows, and what that is
CORRELATIONS = {
    "attention_kl/spearman": (
        "Does attention far from the evidence go with wrong answers?",
        "rank correlation",
        "Spearman's correlation of attention KL with being right: below 0 says yes (EASE, fig. 3)",
    ),
    "focus_correlation": (
        "Do tokens that are like the image attend to it?",
        "correlation",
        "mean over answers of Pearson's correlation of a token's likeness to the image with its "
        "attention to it (VGPO, app. C)",
    ),
}

_PLACE = ("part of the answer, from its start", "share of attention")
_RANK = ("part of the answer's tokens, from low entropy on", "share of attention")
_PARTS = "equal parts of an answer; mean over answers"
# metric, without the number at its end -> title, axes, and what that is
NUMBERED = {
    "wrong/kl_bin": (
        "Wrong answers by distance of attention from the evidence",
        "bin of the answers",
        "share of wrong answers",
        "answers in bins of equal count by KL from attention to its target: 1 is nearest to the "
        "evidence (EASE, fig. 3)",
    ),
    "attention/image/at": (
        "Attention on the image while answering", *_PLACE, f"{_PARTS} (VGPO, fig. 2, 6)",
    ),
    "attention/evidence/at": (
        "Attention on the evidence while answering", *_PLACE, f"{_PARTS} (SAYO, fig. 4)",
    ),
    "attention/image/entropy": (
        "Attention on the image by entropy", *_RANK, f"{_PARTS} (SAYO, fig. 7)",
    ),
    "attention/evidence/entropy": (
        "Attention on the evidence by entropy", *_RANK, f"{_PARTS} (SAYO, fig. 4, 6)",
    ),
}  # fmt: skip


def diagnostics(lines: Sequence[Line], results: Results) -> Section:
    """One group of charts for each evaluator of that kind, whatever its name in the config."""
    names = [
        name
        for line in lines
        for point in line.points
        for name, evaluator in point.run.evaluator.items()
        if evaluator.name == EVALUATOR
    ]
    charts = [
        chart
        for name in dict.fromkeys(names)
        for chart in _charts(name, lines, results)
        if chart.series
    ]
    if charts:
        return Section(charts=tuple(charts))
    waiting = f"`diagnostics` is declared, but no run has its results over {LEAST} answers yet"
    return Section(missing=(waiting if names else REMEDY,))


def _charts(evaluator: str, lines: Sequence[Line], results: Results) -> Iterator[Chart]:
    suffix = "" if evaluator == EVALUATOR else f" ({evaluator})"
    for metric, (title, x, y, meaning) in NUMBERED.items():
        least = LEAST_OF_BIN if "_bin" in metric else LEAST
        curves = _numbered(evaluator, metric, lines, results, least)
        notes = (meaning, BAND, *_lacking(curves, lines))
        name = slug(f"{evaluator} {metric}".replace("/kl_bin", " by kl"))
        yield Chart(name, title + suffix, x, y, curves, notes=notes)
    for metric, (title, x, meaning) in CORRELATIONS.items():
        dots = tuple(
            found
            for number, line in enumerate(lines)
            if (found := series(number, {0.0: _values(evaluator, metric, line, results, LEAST)}))
        )
        notes = (meaning, DOTS, *_lacking(dots, lines))
        name = slug(f"{evaluator} {metric}")
        yield Chart(name, title + suffix, x, "", dots, kind="dots", notes=notes)


def _lacking(found: Sequence[Series], lines: Sequence[Line]) -> tuple[str, ...]:
    return without(found, [line.label for line in lines], "not measured of")


def _numbered(
    evaluator: str, metric: str, lines: Sequence[Line], results: Results, least: int
) -> tuple[Series, ...]:
    """One series for each line that has them, of the metrics `metric`_1, `metric`_2, …"""
    names = {
        name
        for measured in results.values()
        for name in measured.metrics.get(evaluator, ())
        if name.startswith(f"{metric}_")
    }
    found = (
        series(
            number,
            {
                float(name.rpartition("_")[2]): _values(evaluator, name, line, results, least)
                for name in names
            },
        )
        for number, line in enumerate(lines)
    )
    return tuple(each for each in found if each is not None)


def _values(evaluator: str, metric: str, line: Line, results: Results, least: int) -> list[float]:
    found = []
    for point in line.runs:
        measured = results.get(point.identity.hash)
        score = measured.metrics.get(evaluator, {}).get(metric) if measured else None
        if score is None or not math.isfinite(score.value):
            continue
        if not (isinstance(score.items, int) and score.items < least):  # imported: not known
            found.append(score.value)
    return found
