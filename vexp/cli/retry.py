"""`vexp retry`: run a sweep's failed runs again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vexp.cli.launch import dry_run_option, reconcile, wait_option
from vexp.cli.options import json_option
from vexp.cli.sweeps import again, plan_of, sweep_arguments, workers_option
from vexp.errors import ConfigError, Problem

if TYPE_CHECKING:
    from vexp.sweeps.launch import Failed
    from vexp.sweeps.plan import Plan


@click.command("retry")
@sweep_arguments
@workers_option
@click.option("--kind", "kinds", multiple=True, help="Only failures of this kind, e.g. oom.")
@click.option("--signature", default="", help="Only failures whose signature has this in it.")
@wait_option
@dry_run_option
@json_option
def command(
    sweep: str,
    overrides: tuple[str, ...],
    config_dirs: tuple[Path, ...],
    workers: int | None,
    kinds: tuple[str, ...],
    signature: str,
    wait: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run the failed runs of SWEEP again, from their checkpoints, and start what is missing.

    `vexp status` shows kinds and signatures. Failed evaluations are done again as well.
    """
    from vexp.sweeps.launch import Failed

    plan = plan_of(sweep, overrides, config_dirs, workers)
    only = Failed(kinds, signature)
    _check(plan, only)
    told = again("{}", sweep, overrides)
    reconcile(plan, told, wait=wait, dry_run=dry_run, as_json=as_json, retry_failed=True, only=only)


def _check(plan: Plan, only: Failed) -> None:
    """Raises:
    ConfigError: if there are failures, but none of those that are asked for.
    """
    from vexp.sweeps.status import failures

    groups = failures(plan.runs)
    asked = bool(only.kinds or only.signature)
    if asked and not any(
        (not only.kinds or group.kind in only.kinds) and only.signature in group.signature
        for group in groups
    ):
        raise ConfigError(
            Problem(
                "no failure of this sweep is of that kind and signature",
                where="the command line",
                accepted="; ".join(f"{g.kind}: {g.signature}" for g in groups)
                or "nothing has failed",
            )
        )
