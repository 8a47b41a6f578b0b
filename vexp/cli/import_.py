"""`vexp import`: exported results become finished evaluations here."""

from __future__ import annotations

from pathlib import Path

import click

from vexp.cli.options import results_option


@click.command("import")
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@results_option
def command(source: Path, results_dir: Path) -> None:
    """Bring back what `vexp export` wrote to SOURCE. What is here already is never changed."""
    from vexp.runs.exchange import import_
    from vexp.runs.store import RunStore

    report = import_(RunStore(results_dir), source)
    click.echo(f"{len(report.runs)} new runs, {report.evaluations} evaluations")
    for name, why in report.skipped.items():
        click.echo(f"  skipped {name}: {why}")
