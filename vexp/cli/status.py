"""`vexp status`: states and progress of a sweep's runs, failures grouped."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vexp.cli.options import json_option
from vexp.cli.sweeps import again, launcher_of, next_command, plan_of, say_damage, sweep_arguments

if TYPE_CHECKING:
    from vexp.sweeps.status import SweepProgress

SHOWN = 100  # runs that are shown unless all are wanted: more than anybody reads


@click.command("status")
@sweep_arguments
@click.option("--live", is_flag=True, help="Keep showing it until all is done or Ctrl-C.")
@click.option("--all", "every", is_flag=True, help=f"Every run, not only {SHOWN} of them.")
@json_option
def command(
    sweep: str,
    overrides: tuple[str, ...],
    config_dirs: tuple[Path, ...],
    live: bool,
    every: bool,
    as_json: bool,
) -> None:
    """How far each run of SWEEP is; failures grouped by what they have in common.

    Of many runs, those that are at work or need attention are shown.
    """
    from vexp.sweeps import show
    from vexp.sweeps.plan import look_up_evaluations, refreshed
    from vexp.sweeps.status import failures, foremost, progress

    plan = plan_of(sweep, overrides, config_dirs)
    launcher = launcher_of(plan)
    workers = launcher.alive(plan.state.folder)
    plan = look_up_evaluations(refreshed(plan) if launcher.settles else plan)
    if as_json:
        content = {
            "sweep": plan.sweep.name,
            "trainings": {"declared": len(plan.runs), **plan.counts()},
            "evaluations": show.evaluations_data(plan),
            "held": plan.held,
            "damaged": {name: str(problem) for name, problem in plan.damage().items()},
            "trials": plan.search.counts() if plan.search else None,
            "failed_trials": plan.search.reasons() if plan.search else {},
            "workers": [worker.name for worker in workers],
            "jobs": [show.worker_data(worker) for worker in workers],
            "orphans": [{"run": name, "state": state} for name, state in plan.orphans],
            "runs": [show.progress_data(row) for row in progress(plan)],
            "failures": [show.failure_data(group) for group in failures(plan.runs)],
        }
        click.echo(json.dumps(content, indent=2))
        return
    from rich.console import Console

    from vexp.sweeps.watch import watch

    console = Console()
    rows: list[SweepProgress] = []
    if live:
        try:
            plan = watch(plan, launcher_of(plan), console)
        except KeyboardInterrupt:
            click.echo("\nno longer watching; the runs go on")
            return
    rows = progress(plan, foremost(plan.runs, None if every else SHOWN))
    if not live:
        console.print(show.progress_table(plan, rows, "; --all shows them"))
    console.print(show.failures_text(failures(plan.runs)), end="")
    click.echo(show.held_text(plan, again("{}", sweep, overrides)), nl=False)
    for name, state in plan.orphans:
        click.echo(f"orphan: {name} ({state}); launched before, no longer declared, kept")
    for line in show.failed_trials(plan.search):
        click.echo(line)
    workers = launcher_of(plan).alive(plan.state.folder)
    labels = {run.name: run.training.label for run in plan.runs}
    lines = (show.lost_lines(rows), show.silent_lines(plan), show.workers_lines(workers, labels))
    for line in itertools.chain.from_iterable(lines):
        click.echo(line)
    unread = {f"progress of run {row.run.name}": row.unread for row in rows if row.unread}
    say_damage(plan.damage() | unread)
    counts = plan.counts()
    if plan.complete:
        following = again("table", sweep, overrides)
    elif workers or counts["running"]:
        following = again("status", sweep, overrides) + " --live"
    else:
        following = again(next_command(plan), sweep, overrides)
    click.echo(f"next: {following}")
