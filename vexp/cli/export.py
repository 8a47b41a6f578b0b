"""`vexp export`: results of finished runs, small enough for git."""

from __future__ import annotations

from pathlib import Path

import click

from vexp.cli.options import UserPathType, results_option
from vexp.cli.sweeps import say_damage


@click.command("export")
@click.argument("target", type=UserPathType())
@click.argument("runs", nargs=-1)
@results_option
def command(target: Path, runs: tuple[str, ...], results_dir: Path) -> None:
    """Write results and per-sample verdicts to TARGET, a folder or a .zip file.

    RUNS are names, ids or starts of hashes; without any, all finished runs are written. What is
    damaged is left out and named, and the exit code is 1.
    """
    from vexp.runs.exchange import export
    from vexp.runs.store import RunStore

    store = RunStore(results_dir)
    names = [store.load(run).name for run in runs] or None
    report = export(store, target, names)
    written = report.runs
    click.echo(f"wrote {len(written)} run{'s' * (len(written) != 1)} to {target}")
    if report.missing:
        say_damage(report.missing)
        click.echo("the export lacks what is named above: mend that, then export again", err=True)
        raise click.exceptions.Exit(1)
    click.echo(f"next: vexp import {target} --results-dir ELSEWHERE")
