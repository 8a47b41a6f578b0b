"""`vexp cancel`: stop a sweep's workers."""

from __future__ import annotations

from pathlib import Path

import click

from vexp.cli.launch import dry_run_option
from vexp.cli.sweeps import again, launcher_of, plan_of, sweep_arguments


@click.command("cancel")
@sweep_arguments
@dry_run_option
def command(
    sweep: str, overrides: tuple[str, ...], config_dirs: tuple[Path, ...], dry_run: bool
) -> None:
    """Ask the workers of SWEEP to stop. Runs save first, and the next launch goes on from there."""
    plan = plan_of(sweep, overrides, config_dirs)
    launcher, folder = launcher_of(plan), plan.state.folder
    workers = launcher.alive(folder) if dry_run else launcher.stop(folder)
    names = ", ".join(worker.name for worker in workers) or "none"
    click.echo(f"{'would ask' if dry_run else 'asked'} {len(workers)} workers to stop: {names}")
    if not workers:
        for run in plan.runs:
            if run.status and run.state == "running":
                click.echo(f"  {run.training.label} runs without a worker: {run.status.owner}")
    click.echo(f"next: {again('status', sweep, overrides)}")
