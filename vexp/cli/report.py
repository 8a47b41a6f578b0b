"""`vexp report`: what a sweep found, as one HTML page."""

from __future__ import annotations

from pathlib import Path

import click

from vexp.cli.options import UserPathType
from vexp.cli.sweeps import again, plan_of, sweep_arguments


@click.command("report")
@sweep_arguments
@click.option(
    "-o",
    "--output",
    type=UserPathType(dir_okay=False),
    help="The page; without it, tables/SWEEP.html in the results folder.",
)
@click.option(
    "--figures",
    type=UserPathType(file_okay=False),
    help="A folder for the charts as PDF and SVG.",
)
def command(
    sweep: str,
    overrides: tuple[str, ...],
    config_dirs: tuple[Path, ...],
    output: Path | None,
    figures: Path | None,
) -> None:
    """The report of SWEEP, from results alone: table, learning curves, sensitivity, examples.

    One page that opens from disk and needs neither a network nor another file.
    """
    from vexp.files import write_text
    from vexp.tables.report.contents import report_of
    from vexp.tables.report.figures import write_figures
    from vexp.tables.report.page import page

    plan = plan_of(sweep, overrides, config_dirs)
    if (plan.points or plan.search) and not plan.counts()["done"]:
        click.echo("no run is finished yet, so no page is written", err=True)
        click.echo(f"next: {again('launch', sweep, overrides)} --wait", err=True)
        return
    report = report_of(plan)
    path = output or plan.state.results_dir / "tables" / f"{report.name}.html"
    write_text(path, page(report))
    if figures is not None:
        written = write_figures(report, figures)
        click.echo(f"written: {len(written)} figures in {figures}")
    if report.problems:
        click.echo(f"{len(report.problems)} results are damaged or do not count:", err=True)
        for problem in report.problems:
            click.echo(f"- {problem}", err=True)
    click.echo(f"written: {path}")
