"""`vexp launch`: start what is missing of a sweep."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vexp.cli.options import json_option
from vexp.cli.sweeps import (
    again,
    launcher_of,
    next_command,
    plan_of,
    say_damage,
    sweep_arguments,
    workers_option,
)
from vexp.launcher.base import SILENT, STOPPING

if TYPE_CHECKING:
    from vexp.sweeps.launch import Launched
    from vexp.sweeps.plan import Plan

wait_option = click.option("--wait", is_flag=True, help="Show progress until all is done.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done; do nothing.")


@click.command("launch")
@sweep_arguments
@workers_option
@wait_option
@dry_run_option
@click.option("--retry-failed", is_flag=True, help="Also run failed runs again.")
@click.option("--release", is_flag=True, help="Go on although the first runs all failed alike.")
@json_option
def command(
    sweep: str,
    overrides: tuple[str, ...],
    config_dirs: tuple[Path, ...],
    workers: int | None,
    wait: bool,
    dry_run: bool,
    retry_failed: bool,
    release: bool,
    as_json: bool,
) -> None:
    """Start what is missing of SWEEP and return; the runs go on when the terminal closes.

    Without a file, overrides make the sweep: `vexp launch credit=uniform,vicra seed=1,2,3`. It is
    kept as a file in results/sweeps.

    The same command again starts only what is still missing. With --wait, Ctrl-C ends the waiting,
    not the runs, and the exit code is 1 if not everything could be done.
    """
    plan = plan_of(sweep, overrides, config_dirs, workers, keep=not dry_run)
    told = again("{}", sweep, overrides)
    reconcile(
        plan, told, wait=wait, dry_run=dry_run, as_json=as_json,
        retry_failed=retry_failed, release=release,
    )  # fmt: skip


def reconcile(
    plan: Plan, told: str, *, wait: bool, dry_run: bool, as_json: bool, **settings: Any
) -> None:
    """Launch a plan and say what was done; `told` is the command line for what comes next.

    `settings` go to `vexp.sweeps.launch.launch`.
    """
    from vexp.sweeps.launch import launch
    from vexp.sweeps.plan import look_up_evaluations, refreshed

    notes = plan.notes()  # before this launch writes whose the folder is
    look_up_evaluations(plan)
    done = launch(plan, launcher_of(plan), dry_run=dry_run, **settings)
    if as_json:
        click.echo(json.dumps(_data(plan, done, dry_run), indent=2))
    else:
        for line in _report(plan, done, told, dry_run, wait, notes):
            click.echo(line)
    say_damage({f"run {name}": wrong for name, wrong in done.refused.items()} | plan.damage())
    if wait and not dry_run:
        _wait(refreshed(plan), told, quiet=as_json)


def _wait(plan: Plan, told: str, *, quiet: bool) -> None:
    from rich.console import Console

    from vexp.sweeps import show
    from vexp.sweeps.status import failures
    from vexp.sweeps.takeover import Takeover
    from vexp.sweeps.watch import watch

    console = Console(stderr=quiet)
    try:
        launcher = launcher_of(plan)
        note = functools.partial(console.print, markup=False, highlight=False, soft_wrap=True)
        plan = watch(plan, launcher, console, takeover=Takeover(launcher, note))
    except KeyboardInterrupt:
        click.echo("\nno longer waiting; the runs go on", err=quiet)
        click.echo(f"watch them:  {_command(told, 'status')} --live", err=quiet)
        click.echo(f"stop them:   {_command(told, 'cancel')}", err=quiet)
        raise click.exceptions.Exit(130) from None
    console.print(show.failures_text(failures(plan.runs)), end="")
    if plan.complete:
        click.echo(f"all runs are done; next: {_command(told, 'table')}", err=quiet)
        return
    click.echo(f"not everything is done ({show.counts_line(plan)})", err=quiet)
    click.echo(f"next: {_command(told, next_command(plan))}", err=quiet)
    raise click.exceptions.Exit(1)


def _report(
    plan: Plan, done: Launched, told: str, dry_run: bool, wait: bool, notes: Sequence[str]
) -> list[str]:
    from vexp.sweeps import show

    lines = [f"{plan.sweep.name}: {show.counts_line(plan)}"]
    lines += [f"  note: {sentence}" for sentence in notes]
    lines += [f"  collapsed: {sentence}" for sentence in plan.collapsed]
    lines += [f"  orphan: {name} ({state}); undeclared now, kept" for name, state in plan.orphans]
    would = "would create" if dry_run else "created"
    shared = plan.shared_with()
    lines += [f"  {count} of its runs are of sweep {name}, too" for name, count in shared.items()]
    if done.held is not None:
        lines += show.held_text(plan, told).splitlines()
    if done.created:
        lines.append(f"  {would} {_count(done.created, 'run folder')}")
    if dry_run:
        lines.append(f"  would leave {done.pending} runs to workers; nothing was done")
        return [*lines, f"next: {_command(told, 'launch')}"]
    stopping = [worker for worker in done.alive if worker.state == STOPPING]
    silent = [worker for worker in done.alive if worker.state == SILENT]
    if len(done.alive) > len(stopping) + len(silent):
        at_work = [worker for worker in done.alive if worker not in (*stopping, *silent)]
        lines.append(f"  {_count(at_work, 'worker')} at work already")
    if stopping:
        lines.append(f"  {_count(stopping, 'worker')} still stopping; others wait to take over")
    if done.started:
        logs = done.started[0].log.parent
        lines.append(f"  started {_count(done.started, 'worker')}, logs in {logs}")
    lines += [f"  {line}" for line in (*show.workers_lines(silent, {}), *show.silent_lines(plan))]
    counts = plan.counts()
    if counts["failed"] and not done.pending:
        lines.append(f"  {counts['failed']} failed; `{_command(told, 'retry')}` runs them again")
    if not wait:
        busy = done.pending or counts["running"]
        lines.append(
            f"next: {_command(told, 'table')}" if plan.complete
            else f"next: {_command(told, 'status')}{' --live' if busy else ''}"
        )  # fmt: skip
    return lines


def _data(plan: Plan, done: Launched, dry_run: bool) -> dict[str, object]:
    return {
        "sweep": plan.sweep.name,
        "dry_run": dry_run,
        "trainings": {"declared": len(plan.runs), **plan.counts()},
        "created": list(done.created),
        "pending": done.pending,
        "held": done.held,
        "refused": {name: str(problem) for name, problem in done.refused.items()},
        "started": [worker.name for worker in done.started],
        "alive": [worker.name for worker in done.alive],
    }


def _command(told: str, name: str) -> str:
    """Another command line about the same sweep; overrides may hold braces of their own."""
    return told.replace("{}", name, 1)


def _count(things: Sequence[object], noun: str) -> str:
    return f"{len(things)} {noun}{'s' * (len(things) != 1)}"
