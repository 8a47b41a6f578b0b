"""`vexp table`: the table of a sweep, from results alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vexp.cli.sweeps import again, plan_of, sweep_arguments
from vexp.errors import ConfigError, Problem, suggest

if TYPE_CHECKING:
    from vexp.sweeps.plan import Plan
    from vexp.tables.frame import Frame


@click.command("table")
@sweep_arguments
@click.option("--format", "formats", help="md, csv, json; several with commas.")
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), help="A folder for the files."
)
def command(
    sweep: str,
    overrides: tuple[str, ...],
    config_dirs: tuple[Path, ...],
    formats: str | None,
    output: Path | None,
) -> None:
    """The table of SWEEP, from results alone: mean ± standard deviation over seeds, with n.

    Without --format it is shown here. One --format without --output goes to the standard output.
    Markdown is always written to the results folder as tables/SWEEP.md as well.
    """
    from vexp.files import write_text
    from vexp.tables.render import FORMATS, terminal

    chosen = _chosen(formats, list(FORMATS))
    plan = plan_of(sweep, overrides, config_dirs)
    frame = _frame(plan)
    if not frame.finished:
        click.echo("nothing is evaluated yet, so no file is written", err=True)
        click.echo(f"next: {again('launch', sweep, overrides)} --wait", err=True)
    printed = len(chosen) == 1 and output is None
    if printed:
        click.echo(FORMATS[chosen[0]](frame), nl=False)
    elif not chosen:
        from rich.console import Console

        Console().print(terminal(frame))
    if not frame.finished:
        return
    tables = plan.state.results_dir / "tables"
    files = {tables / f"{frame.sweep}.md": "md"}
    if not printed:
        files |= {(output or tables) / f"{frame.sweep}.{name}": name for name in chosen}
    for path, name in files.items():
        write_text(path, FORMATS[name](frame))
        click.echo(f"written: {path}", err=printed)


def _frame(plan: Plan) -> Frame:
    from vexp.runs.store import RunStore
    from vexp.tables.collect import collect
    from vexp.tables.frame import build_frame

    if plan.sweep.table is None:
        raise ConfigError(
            Problem(
                f"the sweep {plan.sweep.name!r} declares no table",
                where=str(plan.sweep.path),
                remedy="add e.g.  table: {columns: [{metric: accuracy, scale: percent}]}",
            )
        )
    store = RunStore(plan.state.results_dir)
    results = collect([run.training for run in plan.runs], store)
    return build_frame(plan.sweep.name, plan.sweep.table, plan.points, results)


def _chosen(formats: str | None, known: list[str]) -> list[str]:
    chosen = [name.strip() for name in formats.split(",")] if formats else []
    problems = [
        Problem(f"unknown format {name!r}", where="--format", accepted=suggest(name, known))
        for name in chosen
        if name not in known
    ]
    if problems:
        raise ConfigError(problems)
    return list(dict.fromkeys(chosen))
