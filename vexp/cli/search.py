"""`vexp search`: what a sweep's search found."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vexp.cli.options import UserPathType, json_option
from vexp.cli.sweeps import again, plan_of, sweep_arguments
from vexp.errors import ConfigError, Problem

if TYPE_CHECKING:
    from vexp.sweeps.search.plan import Searching
    from vexp.sweeps.search.results import Found


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    plot = click.option(
        "--plot", type=UserPathType(dir_okay=False),
        help="Also draw it: a .png, .svg or .pdf file.",
    )  # fmt: skip
    return sweep_arguments(plot(json_option(function)))


@click.group("search")
def command() -> None:
    """What a sweep's search found so far, from results alone."""


@command.command("best")
@_options
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Trials.")
def best(
    sweep: str,
    overrides: tuple[str, ...],
    config_dirs: tuple[Path, ...],
    plot: Path | None,
    as_json: bool,
    top: int,
) -> None:
    """The best trials of SWEEP, and the command that runs the best one by hand."""
    from vexp.sweeps.search import plots
    from vexp.sweeps.search.results import ranked

    search = _search(sweep, overrides, config_dirs, plot)
    found = ranked(search)
    if plot:
        plots.history(search, plot)
    if as_json:
        click.echo(json.dumps(_data(search, found[:top]), indent=2))
        return
    _head(search)
    _table(search, found[:top])
    _told(search, found[0], sweep, overrides, plot)


@command.command("pareto")
@_options
def pareto(
    sweep: str,
    overrides: tuple[str, ...],
    config_dirs: tuple[Path, ...],
    plot: Path | None,
    as_json: bool,
) -> None:
    """The trials of SWEEP that no other one beats in every objective."""
    from vexp.sweeps.search import plots
    from vexp.sweeps.search.results import front

    search = _search(sweep, overrides, config_dirs, plot)
    if len(search.study.search.objectives) < 2:
        raise ConfigError(
            Problem(
                "a Pareto front takes several objectives, and this search has one",
                where=str(search.study.sweep.path),
                remedy=again("search best", sweep, overrides),
            )
        )
    found = front(search)
    if plot:
        plots.pareto(search, found, plot)
    if as_json:
        click.echo(json.dumps(_data(search, found), indent=2))
        return
    _head(search)
    _table(search, found)
    _told(search, found[0], sweep, overrides, plot)


@command.command("importance")
@_options
def importance(
    sweep: str,
    overrides: tuple[str, ...],
    config_dirs: tuple[Path, ...],
    plot: Path | None,
    as_json: bool,
) -> None:
    """How much of the difference between trials of SWEEP each key accounts for."""
    from vexp.sweeps.search import plots
    from vexp.sweeps.search.results import importances

    search = _search(sweep, overrides, config_dirs, plot)
    shares = importances(search)
    if plot:
        plots.importance(shares, plot)
    if as_json:
        content = {"sweep": search.study.sweep.name, "trials": search.counts()}
        click.echo(json.dumps({**content, "importances": shares}, indent=2))
        return
    _head(search)
    for name, each in shares.items():
        click.echo(f"share of the variance of {name} (fANOVA):")
        width = max(map(len, each))
        for key, share in each.items():
            click.echo(f"  {key:{width}}  {share:.2f}  {'█' * round(30 * share)}")
    if plot:
        click.echo(f"written: {plot}")


def _search(
    sweep: str, overrides: Sequence[str], config_dirs: Sequence[Path], plot: Path | None
) -> Searching:
    from vexp.sweeps.search.plots import check_ending

    check_ending(plot)
    plan = plan_of(sweep, overrides, config_dirs)
    if plan.search is None:
        raise ConfigError(
            Problem(
                f"the sweep {plan.sweep.name!r} has no search",
                where=str(plan.sweep.path),
                remedy=f"its results: {again('table', sweep, overrides)}",
            )
        )
    return plan.search


def _head(search: Searching) -> None:
    from vexp.sweeps.show import failed_trials, trials_line

    click.echo(f"{search.study.sweep.name}: {trials_line(search)}")
    for line in failed_trials(search):
        click.echo(line)


def _table(search: Searching, found: Sequence[Found]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from vexp.sweeps.search.results import objective_names

    table = Table()
    keys = search.study.search.distributions()
    for heading in ("trial", *objective_names(search), "seeds", *keys):
        table.add_column(heading, justify="right")
    for each in found:
        values = [f"{value:.4f}" for value in each.values]
        params = [_short(value) for value in each.trial.params.values()]
        cells = [str(each.trial.number), *values, str(len(each.trial.runs)), *params]
        table.add_row(*map(Text, cells))
    Console().print(table)


def _told(
    search: Searching, found: Found, sweep: str, overrides: Sequence[str], plot: Path | None
) -> None:
    """What to do with it."""
    from vexp.sweeps.search.results import points_of

    first = points_of(search, found.trial)[0]
    command_line = " ".join(map(shlex.quote, first.overrides))
    click.echo(f"trial {found.trial.number} by hand: vexp run {command_line}")
    click.echo(
        "it was chosen by these scores, so they flatter it: judge it on other items or seeds"
    )
    if plot:
        click.echo(f"written: {plot}")
    if not search.study.search.storage:
        click.echo(f"in Optuna's dashboard: optuna-dashboard {search.study.journal}")
    if search.open:
        click.echo(f"next: {again('launch', sweep, overrides)}")


def _data(search: Searching, found: Sequence[Found]) -> dict[str, Any]:
    return {
        "sweep": search.study.sweep.name,
        "trials": search.counts(),
        "failed": search.reasons(),
        "found": [each.data(search) for each in found],
    }


def _short(value: Any) -> str:
    from vexp.sweeps.overrides import shown_value

    return f"{value:.4g}" if isinstance(value, float) else shown_value(value)
