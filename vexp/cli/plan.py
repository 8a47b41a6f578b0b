"""`vexp plan`: what a sweep would run, and what exists already."""

from __future__ import annotations

import json
from pathlib import Path

import click

from vexp.cli.options import json_option
from vexp.cli.sweeps import again, next_command, plan_of, say_damage, sweep_arguments


@click.command("plan")
@sweep_arguments
@json_option
def command(
    sweep: str, overrides: tuple[str, ...], config_dirs: tuple[Path, ...], as_json: bool
) -> None:
    """What SWEEP would run, and what of it exists already. Starts nothing.

    SWEEP is a file, or the name of one in ./sweeps or of one that ships with vexp.
    """
    from vexp.sweeps import show
    from vexp.sweeps.disk import needs
    from vexp.sweeps.plan import look_up_evaluations

    plan = look_up_evaluations(plan_of(sweep, overrides, config_dirs))
    disk = needs(plan)
    if as_json:
        click.echo(json.dumps(show.plan_data(plan, disk), indent=2))
        return
    constants = sum(row.external for row in plan.sweep.rows)
    more = f", {constants} published constants" if constants else ""
    click.echo(f"{plan.sweep.name}: {len(plan.points)} points{more}")
    click.echo(f"  trainings    {show.counts_line(plan)}")
    click.echo(f"  evaluations  {show.evaluations_line(plan)}")
    for line in show.disk_lines(disk):
        click.echo(f"  disk         {line}")
    if plan.specs() and (placed := plan.launcher.placement()):
        click.echo(f"  workers      {placed}")
    width = max((len(run.training.label) for run in plan.runs), default=0)
    for run in plan.runs:
        click.echo(f"  {run.state:8} {run.training.label:{width}}  {run.name}")
    for problem in plan.unknown():
        click.echo(f"  unknown: {problem.what}; {problem.remedy}; ids are provisional")
    for name, count in plan.shared_with().items():
        click.echo(f"  {count} of these runs are of sweep {name}, too: they are not run again")
    for sentence in plan.notes():
        click.echo(f"  note: {sentence}")
    for sentence in plan.collapsed:
        click.echo(f"  collapsed: {sentence}")
    for name, state in plan.orphans:
        click.echo(f"  orphan: {name} ({state}); launched before, no longer declared, kept")
    if plan.orphaned_evaluations:
        click.echo(f"  {plan.orphaned_evaluations} evaluations are no longer declared, kept")
    click.echo(show.held_text(plan, again("{}", sweep, overrides)), nl=False)
    say_damage(plan.damage())
    following = "table" if plan.complete else next_command(plan)
    click.echo(f"next: {again(following, sweep, overrides)}")
