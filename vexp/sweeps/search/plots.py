"""Plots of a search, as PNG, SVG or PDF by the file's ending."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vexp.errors import ConfigError, Problem, suggest
from vexp.files import storage_errors
from vexp.sweeps.search.plan import Searching
from vexp.sweeps.search.results import Found, complete, objective_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ENDINGS = (".png", ".svg", ".pdf")
_BLUE, _GREY, _ORANGE = "#2f5d8a", "#9aa5b1", "#d9822b"


def history(search: Searching, path: Path) -> None:
    """The value of each complete trial, and the best so far."""
    figure, axes = blank_figure()
    found = complete(search)
    numbers = [each.trial.number for each in found]
    values = [each.values[0] for each in found]
    better = max if search.study.search.objectives[0].direction == "maximize" else min
    best = [better(values[: n + 1]) for n in range(len(values))]
    ends = [*numbers, max(numbers[-1], len(search.trials) - 1)]
    axes.step(ends, [*best, best[-1]], where="post", color=_ORANGE, label="best so far", zorder=1)
    axes.scatter(numbers, values, s=22, color=_BLUE, label="complete", zorder=2)
    _mark(axes, search, "pruned", _GREY)
    _mark(axes, search, "failed", "#b3413a")
    axes.set_xlabel("trial")
    axes.set_ylabel(objective_names(search)[0])
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def pareto(search: Searching, front: Sequence[Found], path: Path) -> None:
    """Complete trials by the first two objectives; those of the front are joined and numbered."""
    figure, axes = blank_figure()
    best = {each.trial.number for each in front}
    others = [each for each in complete(search) if each.trial.number not in best]
    axes.scatter(*_columns(others), s=22, color=_GREY, label="other trials")
    axes.plot(*_columns(front), color=_ORANGE, linewidth=1, zorder=1)
    axes.scatter(*_columns(front), s=28, color=_ORANGE, label="front", zorder=2)
    for each in front:
        label = str(each.trial.number)
        axes.annotate(label, each.values[:2], xytext=(4, 4), textcoords="offset points", fontsize=7)
    for name, objective, put in zip(
        objective_names(search),
        search.study.search.objectives,
        (axes.set_xlabel, axes.set_ylabel),
        strict=False,
    ):
        put(f"{name} ({objective.direction})")
    axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def importance(shares: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """A bar for each key, one panel for each objective."""
    count = max(len(each) for each in shares.values())
    figure, all_axes = blank_figure(panels=len(shares), height=1.2 + 0.4 * count)
    for axes, (name, each) in zip(all_axes, shares.items(), strict=True):
        keys = list(each)[::-1]
        bars = axes.barh(keys, [each[key] for key in keys], color=_BLUE, height=0.6)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
        axes.set_xlim(0, 1.12)
        axes.set_xlabel(f"share of the variance of {name}")
    _save(figure, path)


def check_ending(path: Path | None) -> None:
    """Raises:
    ConfigError: if the file is of no kind that can be written.
    """
    if path is not None and path.suffix.lower() not in ENDINGS:
        raise ConfigError(
            Problem(
                f"cannot plot to {path.suffix or 'a file without an ending'}",
                where="--plot",
                accepted=suggest(path.suffix, ENDINGS, noun="endings"),
            )
        )


def _mark(axes: Axes, search: Searching, state: str, colour: str) -> None:
    """Marks at the foot of the plot for trials without a value."""
    pairs = zip(search.trials, search.outcomes, strict=True)
    numbers = [trial.number for trial, now in pairs if now.state == state]
    if numbers:
        foot = [0.02] * len(numbers)
        where = axes.get_xaxis_transform()
        axes.scatter(numbers, foot, marker="x", s=18, color=colour, label=state, transform=where)


def _columns(found: Sequence[Found]) -> tuple[list[float], list[float]]:
    return [each.values[0] for each in found], [each.values[1] for each in found]


def blank_figure(panels: int | None = None, height: float = 3.6) -> tuple[Figure, Any]:
    """A figure with its axes, or with a list of them for several panels; sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6 * (panels or 1), height), layout="constrained")
    axes = figure.subplots(1, panels or 1, squeeze=False)[0]
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(visible=True, color="#e6e9ed", linewidth=0.6)
        each.set_axisbelow(True)
    return figure, list(axes) if panels else axes[0]


def _save(figure: Figure, path: Path) -> None:
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=160)
