"""Launching as reconciling: write what is missing, see that workers are at it, and return."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from vexp.config.schema import to_dict
from vexp.files import write_json
from vexp.launcher.base import Launcher, Worker
from vexp.runs.store import RunFolder, RunStore
from vexp.sweeps.plan import Plan, Planned
from vexp.sweeps.points import Training
from vexp.sweeps.policy import Policy
from vexp.sweeps.state import Entry, SweepState


@dataclass(frozen=True)
class Launched:
    """What a launch did, or with `dry_run` would have done."""

    created: tuple[str, ...]  # run folders
    pending: int  # runs that workers may begin, with those of trials to be proposed
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
    proposals = plan.search.open * max(1, len(plan.sweep.seeds)) if plan.search else 0
    alive = tuple(launcher.alive(plan.state.folder))
    new = tuple(run.name for run in missing if run.status is None)
    work = len(pending) + proposals
    if dry_run:
        return Launched(new, work, (), alive)
    store = RunStore(plan.state.results_dir)
    _save_study(plan)
    number = plan.state.launches() + bool(work)
    asked = plan.state.retries()
    entries = [
        replace(_entry(run, store, plan.state, retry_failed, asked), launch=number)
        for run in missing
    ]
    plan.state.write_queue(entries, plan.sweep.path.resolve(), number)
    plan.state.remember({run.name: run.training.label for run in plan.runs})
    Policy.of(plan.launcher).write(plan.state.folder)
    # Also with nothing pending: a run that says it is running may be in a job that is gone.
    started = tuple(launcher.start(plan.state.folder, work)) if missing or work else ()
    return Launched(new, work, started, alive)


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


def _save_study(plan: Plan) -> None:
    """Leave for the workers what they propose trials for; before any of them reads the queue."""
    from vexp.sweeps.search.study import Study

    if plan.search is None:
        Study.forget(plan.state)
        return
    from vexp.sweeps.search.propose import take_up

    plan.search.study.save()
    take_up(plan.search.study)


def _unfinished(run: Planned) -> bool:
    return not run.complete


def _startable(run: Planned, retry_failed: bool) -> bool:
    return run.state != "running" and (run.state != "failed" or retry_failed)


def _entry(
    run: Planned, store: RunStore, state: SweepState, retry_failed: bool, asked: Mapping[str, int]
) -> Entry:
    """The queue's entry of a run; makes sure that its folder exists.

    `asked` are the retries that a former launch asked for; they stay asked for.
    """
    folder = prepare(run.training, store, state)
    retry = asked.get(folder.name)
    if retry_failed and run.status and run.state == "failed":
        retry = run.status.attempts
    return Entry(
        run=folder.name,
        label=run.training.label,
        shares=run.training.shares,
        retry_until=retry,
        evaluate=run.state == "done",
        trial=run.trial,
    )


def prepare(training: Training, store: RunStore, state: SweepState) -> RunFolder:
    """The run's folder, created if it is missing, with the config that this sweep runs it under.

    Raises:
        RunError: if the folder was written by another config.
    """
    folder = store.open(training.run, training.identity)
    config = json.loads(json.dumps(to_dict(training.run)))
    other = state.config(folder.name)
    if config != folder.config:
        write_json(other, config)
    else:
        other.unlink(missing_ok=True)
    return folder
