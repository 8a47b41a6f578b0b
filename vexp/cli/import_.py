"""`vexp import`: results from elsewhere become finished evaluations here."""

from __future__ import annotations

from pathlib import Path

import click

from vexp.cli.options import UserPathType, results_option


@click.command("import")
@click.argument("source", type=UserPathType(exists=True))
@click.option("--run", help="The run that lmms-eval's results are of, where they do not say it.")
@click.option(
    "--trust", is_flag=True, help="Let the code that an export's runs name (plugins) be loaded."
)
@results_option
def command(source: Path, run: str | None, trust: bool, results_dir: Path) -> None:
    """Bring in SOURCE. What is here already is never changed.

    SOURCE is what `vexp export` wrote, a results folder or file of lmms-eval, or a CSV or JSON file
    of your own with the columns run, benchmark, value; also metric, stderr, n, version, decoding
    and scale (share, percent or points).

    An export is data: code that its runs name is not loaded, now or later, unless you trust it.
    """
    from vexp.runs.imports.adopt import adopt, is_foreign
    from vexp.runs.imports.exported import import_
    from vexp.runs.store import RunStore

    store = RunStore(results_dir)
    if is_foreign(source):
        brought = adopt(store, source, run=run)
        known = f", {brought.known} known already" if brought.known else ""
        click.echo(f"{len(brought.new)} new results{known}")
        for line in (*brought.new, *brought.remarks):
            click.echo(f"  {line}")
        return
    report = import_(store, source, trusting=trust)
    click.echo(f"{len(report.runs)} new runs, {report.evaluations} evaluations")
    for name, why in report.skipped.items():
        click.echo(f"  skipped {name}: {why}")
    for name, files in report.trusted.items():
        click.echo(f"  trusted: {', '.join(files)} of run {name}, as long as it does not change")
    for name, files in report.code.items():
        why = "not here, so not trusted" if trust else "not loaded without --trust"
        click.echo(f"  code of run {name}, {why}: {', '.join(files)}")
