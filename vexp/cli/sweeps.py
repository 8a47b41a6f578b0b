"""What the commands about sweeps have in common."""

from __future__ import annotations

import contextlib
import gc
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vexp import masking
from vexp.cli.options import config_dir_option, overrides_argument
from vexp.errors import ConfigError, Problem

if TYPE_CHECKING:
    from vexp.launcher.base import Launcher
    from vexp.sweeps.plan import Plan


MANY = 1000  # points from which it matters that their objects are many


def sweep_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    """SWEEP, further overrides, and `--config-dir`."""
    function = config_dir_option(overrides_argument(function))
    return click.argument("sweep")(function)


workers_option = click.option(
    "--workers", type=click.IntRange(min=1), help="Runs at the same time: launcher.workers=N."
)


def plan_of(
    sweep: str,
    overrides: Sequence[str],
    config_dirs: Sequence[Path],
    workers: int | None = None,
    *,
    keep: bool = False,
) -> Plan:
    """Read, resolve and look up the sweep a command is about.

    With an override in the place of SWEEP, all of them are one; `keep` writes its file.
    """
    from vexp.files import storage_errors, write_text
    from vexp.sweeps.adhoc import adhoc_sweep, is_adhoc
    from vexp.sweeps.locate import find_sweep
    from vexp.sweeps.plan import make_plan
    from vexp.sweeps.reader import read_sweep

    limit = [f"launcher.workers={workers}"] if workers else []
    overrides = [masking.by_name(text) for text in overrides]
    if not is_adhoc(sweep):
        read = read_sweep(find_sweep(sweep), extra=[*overrides, *limit])
        with _no_collection():
            plan = make_plan(read, config_dirs=config_dirs)
        if len(plan.points) > MANY:
            gc.freeze()  # nor later, nor when the process ends
        return plan
    path, text = adhoc_sweep([sweep, *overrides], config_dirs=config_dirs)
    kept = path.is_file()
    restored = masking.restored_text(text, str(path))
    read = read_sweep(path, extra=limit, text=None if kept else restored)
    plan = make_plan(read, config_dirs=config_dirs)
    if keep and not kept:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
    return plan


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Spare the garbage collector the many points of a plan, none of which is garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


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


def next_command(plan: Plan) -> str:
    """The command that goes on with a sweep at which nobody is at work."""
    counts = plan.counts()
    due = sum(unit.state in ("new", "stopped") for run in plan.runs if run.state == "done"
              for unit in run.units.declared.values())  # fmt: skip
    due += sum(run.status is not None and run.status.mends for run in plan.runs)
    due += counts["new"] + counts["stopped"] + (plan.search.open if plan.search else 0)
    if (counts["failed"] or plan.evaluation_counts()["failed"]) and not due:
        return "retry"
    # What is damaged and cannot be mended is named above; without it, all is done.
    return "launch" if due or not plan.damage() else "table"


def say_damage(damage: Mapping[str, Problem]) -> None:
    """Name what cannot be read, on stderr; the rest of the command is about everything else."""
    for line in damage_lines(damage):
        click.echo(line, err=True)


def damage_lines(damage: Mapping[str, Problem], most: int = 20) -> list[str]:
    """What cannot be read, by what it is of, and what to do about each; the first `most`."""
    lines = []
    for name, problem in list(damage.items())[:most]:
        what, *rest = str(problem).splitlines()
        lines += [f"damaged: {name}: {what}", *rest]
    left = len(damage) - most
    return [*lines, f"… and {left:,} more that are damaged"] if left > 0 else lines


def again(command: str, sweep: str, overrides: Sequence[str]) -> str:
    """The command line of another command about the same sweep."""
    from vexp.sweeps.adhoc import adhoc_sweep, is_adhoc

    if is_adhoc(sweep):
        path, _ = adhoc_sweep([sweep, *overrides])
        if path.is_file():
            return f"vexp {command} {path}"
    return f"vexp {command} {shlex.join([sweep, *overrides])}"
