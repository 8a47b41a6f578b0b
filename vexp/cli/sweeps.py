"""What the commands about sweeps have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vexp.cli.options import config_dir_option, overrides_argument
from vexp.errors import ConfigError, Problem

if TYPE_CHECKING:
    from vexp.launcher.base import Launcher
    from vexp.sweeps.plan import Plan


def sweep_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    """SWEEP, further overrides, and `--config-dir`."""
    function = config_dir_option(overrides_argument(function))
    return click.argument("sweep")(function)


workers_option = click.option(
    "--workers", type=click.IntRange(min=1), help="Runs at the same time: launcher.workers=N."
)


def plan_of(
    sweep: str, overrides: Sequence[str], config_dirs: Sequence[Path], workers: int | None = None
) -> Plan:
    """Read, resolve and look up the sweep a command is about."""
    from vexp.sweeps.find import find_sweep
    from vexp.sweeps.plan import make_plan
    from vexp.sweeps.reader import read_sweep

    extra = [*overrides, *([f"launcher.workers={workers}"] if workers else [])]
    return make_plan(read_sweep(find_sweep(sweep), extra=extra), config_dirs=config_dirs)


def launcher_of(plan: Plan) -> Launcher:
    """The sweep's launcher, which is the same for all its runs."""
    if plan.search is None and not plan.points:
        raise ConfigError(
            Problem(
                "this sweep holds published constants only: there is nothing to run",
                where=str(plan.sweep.path),
                remedy=f"vexp table {plan.sweep.name} shows them",
            )
        )
    return plan.launcher


def again(command: str, sweep: str, overrides: Sequence[str]) -> str:
    """The command line of another command about the same sweep."""
    return " ".join(["vexp", command, sweep, *overrides])
