"""`vexp table`: the table of a sweep, from results alone."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vexp.cli.options import UserPathType
from vexp.cli.sweeps import again, plan_of, say_damage, sweep_arguments
from vexp.errors import ConfigError, Problem, StorageError, suggest

if TYPE_CHECKING:
    from rich.table import Table

    from vexp.sweeps.plan import Plan
    from vexp.tables.frame import Frame
    from vexp.tables.rendered import Sheet


@click.command("table")
@sweep_arguments
@click.option("--format", "formats", help="md, latex, csv, html, json; several with commas.")
@click.option("--output", type=UserPathType(file_okay=False), help="A folder for the files.")
@click.option(
    "--source",
    type=click.Choice(["results", "published"]),
    default="results",
    help="published: the paper's own numbers, e.g. vgpo/table12; nothing of it measured here.",
)
def command(
    sweep: str,
    overrides: tuple[str, ...],
    config_dirs: tuple[Path, ...],
    formats: str | None,
    output: Path | None,
    source: str,
) -> None:
    """The table of SWEEP, from results alone: mean ± standard deviation over seeds, with n.

    Without --format it is shown here. One --format without --output goes to the standard output.
    Markdown is always written to the results folder as tables/SWEEP.md as well.
    """
    from vexp.tables.render import ALIASES, FORMATS

    chosen = _chosen(formats, FORMATS, ALIASES)
    if source == "published":
        _published(sweep, chosen, output)
        return
    gc.disable()  # millions of small objects, none of them garbage: collecting takes a quarter
    plan = plan_of(sweep, overrides, config_dirs)
    frame = _frame(plan)
    say_damage(frame.damage)
    empty = bool(plan.points) and not frame.finished
    if empty:
        click.echo("nothing is evaluated yet, so no file is written", err=True)
        click.echo(f"next: {again('launch', sweep, overrides)} --wait", err=True)
    from vexp.tables.render_text import sheet_of

    sheet = sheet_of(frame)
    printed = _show(sheet, chosen, output)
    if empty:
        return
    tables = plan.state.results_dir / "tables"
    try:
        _write(sheet, {"md"}, tables, quiet=printed)
    except StorageError as error:  # results that one may only look at are shown all the same
        click.echo(f"note: {error}", err=True)
    if not printed:
        _write(sheet, set(chosen) - ({"md"} if output is None else set()), output or tables)


def _published(name: str, chosen: list[str], output: Path | None) -> None:
    from vexp.tables.published import sheet
    from vexp.tables.reference import load

    found = sheet(name, load(name))
    if not _show(found, chosen, output) and chosen:
        _write(found, set(chosen), output or Path())


def _show(sheet: Sheet, chosen: list[str], output: Path | None) -> bool:
    """Print the sheet where that was asked for; whether it went to the standard output as text."""
    from vexp.tables.render import FORMATS, terminal

    if len(chosen) == 1 and output is None:
        click.echo(FORMATS[chosen[0]](sheet), nl=False)
        return True
    if not chosen:
        _print(terminal(sheet))
    return False


_WIDEST = 10_000  # characters; more than any table has


def _print(table: Table) -> None:
    """To the terminal, but never so narrow that a number would be cut; whole where it is piped."""
    from rich.console import Console
    from rich.measure import Measurement

    console = Console()
    wide = console.options.update(width=_WIDEST)
    if console.is_terminal:
        console.width = max(console.width, Measurement.get(console, wide, table).minimum)
    else:
        console.width = _WIDEST
    console.print(table)


def _write(sheet: Sheet, names: set[str], folder: Path, *, quiet: bool = False) -> None:
    from vexp.files import write_text
    from vexp.tables.render import FORMATS

    for name in sorted(names):
        # The report of the sweep is the page of that name; this is a part for other pages.
        path = folder / f"{sheet.name}.{'part.html' if name == 'html' else name}"
        write_text(path, FORMATS[name](sheet))
        click.echo(f"written: {path}", err=quiet)


def _frame(plan: Plan) -> Frame:
    from vexp.tables.collect import collect
    from vexp.tables.frame import build_frame

    table = plan.sweep.table
    if table is None:
        raise ConfigError(
            Problem(
                f"the sweep {plan.sweep.name!r} declares no table",
                where=str(plan.sweep.path),
                remedy="add e.g.  table: {columns: [{metric: accuracy, scale: percent}]}",
            )
        )
    costs = any(column.cost for column in table.columns)
    return build_frame(plan.sweep, plan.points, collect(plan.runs, costs=costs))


def _chosen(formats: str | None, known: Iterable[str], aliases: Mapping[str, str]) -> list[str]:
    given = [name.strip() for name in formats.split(",")] if formats else []
    chosen = [aliases.get(name, name) for name in given]
    accepted = [*known, *aliases]
    problems = [
        Problem(f"unknown format {name!r}", where="--format", accepted=suggest(name, accepted))
        for name in chosen
        if name not in accepted
    ]
    if problems:
        raise ConfigError(problems)
    return list(dict.fromkeys(chosen))
