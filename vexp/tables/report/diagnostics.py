"""What the evaluator `diagnostics` found: errors by attention, and correlations."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vexp.tables.cells import Results
from vexp.tables.report.charts import BAND, DOTS, Chart, Section, Values, series, slug, without
from vexp.tables.report.lines import Line

EVALUATOR = "diagnostics"
QUANTILES = 5
LEAST = 50  # answers, ten in each fifth: fewer show nothing but noise
QUANTILE = "answers in fifths by KL from attention to its target: 1 is nearest to the evidence"
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


def _charts(evaluator: str, lines: Sequence[Line], results: Results) -> list[Chart]:
    labels = [line.label for line in lines]
    suffix = "" if evaluator == EVALUATOR else f" ({evaluator})"
    by_quantile = tuple(
        found
        for number, line in enumerate(lines)
        if (found := series(number, _quantiles(evaluator, line, results))) is not None
    )
    charts = [
        Chart(
            name=slug(f"{evaluator} wrong by kl"),
            title=f"Wrong answers by distance of attention from the evidence{suffix}",
            x="fifth of the answers",
            y="share of wrong answers",
            series=by_quantile,
            notes=(QUANTILE, BAND, *without(by_quantile, labels, "not measured of")),
        )
    ]
    for metric, (title, axis, meaning) in CORRELATIONS.items():
        dots = tuple(
            found
            for number, line in enumerate(lines)
            if (found := series(number, {0.0: _values(evaluator, metric, line, results)}))
        )
        notes = (meaning, DOTS, *without(dots, labels, "not measured of"))
        name = slug(f"{evaluator} {metric}")
        charts.append(Chart(name, title + suffix, axis, "", dots, kind="dots", notes=notes))
    return charts


def _quantiles(evaluator: str, line: Line, results: Results) -> Values:
    numbers = range(1, QUANTILES + 1)
    least = LEAST // QUANTILES
    return {
        float(n): _values(evaluator, f"wrong/kl_bin_{n}", line, results, least) for n in numbers
    }


def _values(
    evaluator: str, metric: str, line: Line, results: Results, least: int = LEAST
) -> list[float]:
    found = []
    for point in line.runs:
        measured = results.get(point.identity.hash)
        score = measured.metrics.get(evaluator, {}).get(metric) if measured else None
        if score is None or not math.isfinite(score.value):
            continue
        if not (isinstance(score.items, int) and score.items < least):  # imported: not known
            found.append(score.value)
    return found
