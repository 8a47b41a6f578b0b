"""`vexp retry`: run a sweep's failed runs again."""

from __future__ import annotations

from pathlib import Path

import click

from vexp.cli.launch import dry_run_option, reconcile, wait_option
from vexp.cli.options import json_option
from vexp.cli.sweeps import again, plan_of, sweep_arguments, workers_option


@click.command("retry")
@sweep_arguments
@workers_option
@wait_option
@dry_run_option
@json_option
def command(
    sweep: str,
    overrides: tuple[str, ...],
    config_dirs: tuple[Path, ...],
    workers: int | None,
    wait: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run the failed runs of SWEEP again, from their checkpoints, and start what is missing."""
    plan = plan_of(sweep, overrides, config_dirs, workers)
    told = again("{}", sweep, overrides)
    reconcile(plan, told, wait=wait, dry_run=dry_run, retry_failed=True, as_json=as_json)
