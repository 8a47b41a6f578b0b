"""`vexp clean`: what can be deleted without losing a result."""

from __future__ import annotations

import json
from pathlib import Path

import click

from vexp.cli.options import json_option, results_option
from vexp.cli.sweeps import say_damage


@click.command("clean")
@results_option
@click.option("--yes", is_flag=True, help="Delete what is listed.")
@json_option
def command(results_dir: Path, yes: bool, as_json: bool) -> None:
    """List what can go: leftovers, superseded attempts, optimiser state, stages no run refers to.

    Nothing is deleted without --yes, and results never are.
    """
    from vexp.runs.clean import clean
    from vexp.runs.store import RunStore

    cleaning = clean(RunStore(results_dir), yes=yes)
    say_damage(cleaning.damage)
    found = cleaning.items
    if as_json:
        rows = [{"path": str(i.path), "why": i.why, "bytes": i.size} for i in found]
        click.echo(json.dumps({"deleted": yes, "items": rows}, indent=2))
        return
    for item in found:
        click.echo(f"{item.size / 1e6:9.1f} MB  {item.path}  ({item.why})")
    total = sum(item.size for item in found) / 1e6
    if not found:
        click.echo("there is nothing to clean")
    elif yes:
        click.echo(f"deleted {len(found)} items, {total:.1f} MB")
    else:
        click.echo(f"{len(found)} items, {total:.1f} MB; nothing was deleted")
        click.echo(f"next: vexp clean --results-dir {results_dir} --yes")
