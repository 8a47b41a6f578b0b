"""Launching as reconciling: write what is missing, see that workers are at it, and return."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from vexp.config.schema import to_dict
from vexp.files import write_json
from vexp.launcher.base import Launcher, Worker
from vexp.runs.store import RunStore
from vexp.sweeps.plan import Plan, Planned
from vexp.sweeps.policy import Policy
from vexp.sweeps.state import Entry, SweepState


@dataclass(frozen=True)
class Launched:
    """What a launch did, or with `dry_run` would have done."""

    created: tuple[str, ...]  # run folders
    pending: int  # runs that workers may begin
    started: tuple[Worker, ...]
    alive: tuple[Worker, ...]  # before this launch


def launch(
    plan: Plan, launcher: Launcher, *, retry_failed: bool = False, dry_run: bool = False
) -> Launched:
    """Create the missing run folders, write the queue, and start the workers that are missing.

    Called again, it changes nothing unless something is missing. Failed runs stay as they are
    unless `retry_failed`.

    Raises:
        RunError: if a run's folder was written by another config.
        StorageError: if the results folder cannot be written; nothing was started.
    """
    missing = [run for run in in_order(plan.runs) if _unfinished(run)]
    pending = [run for run in missing if _startable(run, retry_failed)]
    alive = tuple(launcher.alive(plan.state.folder))
    new = tuple(run.name for run in missing if run.status is None)
    if dry_run:
        return Launched(new, len(pending), (), alive)
    store = RunStore(plan.state.results_dir)
    number = plan.state.launches() + bool(pending)
    asked = plan.state.retries()
    entries = [
        replace(_entry(run, store, plan.state, retry_failed, asked), launch=number)
        for run in missing
    ]
    plan.state.write_queue(entries, plan.sweep.path.resolve(), number)
    plan.state.remember({run.name: run.training.label for run in plan.runs})
    Policy.of(plan.points[0].run.launcher).write(plan.state.folder)
    # Also with nothing pending: a run that says it is running may be in a job that is gone.
    started = tuple(launcher.start(plan.state.folder, len(pending))) if missing else ()
    return Launched(new, len(pending), started, alive)


def in_order(runs: Iterable[Planned]) -> list[Planned]:
    """As declared, but the first run of each shared stage comes first.

    So workers build different stages at the same time instead of waiting for one.
    """
    seen: set[str] = set()
    first: list[Planned] = []
    rest: list[Planned] = []
    for run in runs:
        shares = run.training.shares
        (first if shares and shares not in seen else rest).append(run)
        seen.add(shares or "")
    return first + rest


def _unfinished(run: Planned) -> bool:
    return run.state != "done" or not all(run.evaluations.values())


def _startable(run: Planned, retry_failed: bool) -> bool:
    return run.state != "running" and (run.state != "failed" or retry_failed)


def _entry(
    run: Planned, store: RunStore, state: SweepState, retry_failed: bool, asked: Mapping[str, int]
) -> Entry:
    """The queue's entry of a run; makes sure that its folder exists.

    `asked` are the retries that a former launch asked for; they stay asked for.
    """
    folder = store.open(run.training.run, run.training.identity)
    config = json.loads(json.dumps(to_dict(run.training.run)))
    other = state.config(folder.name)
    if config != folder.config:
        write_json(other, config)
    else:
        other.unlink(missing_ok=True)
    retry = asked.get(folder.name)
    if retry_failed and run.status and run.state == "failed":
        retry = run.status.attempts
    return Entry(
        run=folder.name,
        label=run.training.label,
        shares=run.training.shares,
        retry_until=retry,
        evaluate=run.state == "done",
    )
