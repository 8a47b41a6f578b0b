"""Launching as reconciling: write what is missing, see that workers are at it, and return."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from vexp import masking, records
from vexp.config.schema import to_dict
from vexp.errors import Problem, RunError
from vexp.files import write_json
from vexp.launcher.base import Launcher, Worker
from vexp.runs import trust
from vexp.runs.record import check_same_science
from vexp.runs.store import RunFolder, RunStore
from vexp.sweeps.circuit_breaker import signature
from vexp.sweeps.plan import Plan, Planned
from vexp.sweeps.points import Training
from vexp.sweeps.retry_policy import RetryPolicy
from vexp.sweeps.state import Entry, SweepState
from vexp.sweeps.worker import is_silent


@dataclass(frozen=True)
class Failed:
    """Which failures a retry is about: all of them, or those of some kinds and signatures."""

    kinds: tuple[str, ...] = ()
    signature: str = ""  # a part of it

    def __contains__(self, failure: records.FailureRecord) -> bool:
        kinds = not self.kinds or failure.kind in self.kinds
        return kinds and self.signature in signature(failure)


@dataclass(frozen=True)
class Launched:
    """What a launch did, or with `dry_run` would have done."""

    created: tuple[str, ...]  # run folders
    pending: int  # runs that workers may begin, with those of trials to be proposed
    started: tuple[Worker, ...]
    alive: tuple[Worker, ...]  # before this launch
    held: str | None = None  # what the first runs failed with, if that holds the rest
    refused: Mapping[str, Problem] = field(default_factory=dict)  # runs that cannot be begun


def launch(
    plan: Plan,
    launcher: Launcher,
    *,
    retry_failed: bool = False,
    only: Failed | None = None,
    release: bool = False,
    dry_run: bool = False,
) -> Launched:
    """Create the missing run folders, write the queue, and start the workers that are missing.

    Called again, it changes nothing unless something is missing. Failed runs stay as they are
    unless `retry_failed`, then those that are in `only`. A sweep that is held starts nothing before
    a retry or a `release`. A run whose folder is damaged or was written by another config is
    refused; all others go on.

    Raises:
        ConfigError: if the launcher cannot run them here.
        StorageError: if the results folder cannot be written; nothing was started.
    """
    retry = (only or Failed()) if retry_failed else None
    held = None if release or retry else plan.held
    unfinished = [run for run in plan.runs if not run.complete]
    refused = {run.name: wrong for run in unfinished if (wrong := _refused(run)) is not None}
    missing = in_order(run for run in unfinished if run.name not in refused)
    pending = [] if held else [run for run in missing if _startable(run, retry)]
    proposals = plan.search.open * max(1, len(plan.sweep.seeds)) if plan.search else 0
    alive = tuple(launcher.alive(plan.state.folder))
    new = tuple(run.name for run in missing if run.status is None)
    work = 0 if held else len(pending) + proposals
    if work and not held:
        launcher.check_runs(plan.specs())
    if dry_run:
        return Launched(new, work, (), alive, held, refused)
    store = RunStore(plan.state.results_dir)
    _save_study(plan)
    number, former = plan.state.launches() + bool(work), plan.state.record()
    asked = plan.state.retries()
    entries = [
        replace(_entry(run, store, plan.state, retry, asked), launch=number) for run in missing
    ]
    plan.state.write_queue(
        entries,
        plan.sweep.path.resolve(),
        number,
        hold_after=plan.sweep.hold_after,
        released=int(release or bool(former and former.released)),
        done=plan.counts()["done"],
    )
    plan.state.remember({run.name: run.training.label for run in plan.runs})
    RetryPolicy.of(plan.launcher).write(plan.state.folder)
    # Also with nothing pending: a run that says it is running may be in a job that is gone.
    begin = (missing or work) and held is None
    started = tuple(launcher.start(plan.state.folder, work)) if begin else ()
    return Launched(new, work, started, alive, held, refused)


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


def _refused(run: Planned) -> Problem | None:
    """Why an unfinished run cannot go on in its folder; None if it can."""
    status = run.status
    if status is None:
        return None
    if status.problem is not None and not status.mends:
        return status.problem
    try:
        check_same_science(status.folder, run.training.identity)
    except RunError as error:
        return error.problem
    return None


def _startable(run: Planned, retry: Failed | None) -> bool:
    if run.state == "done":
        return _evaluable(run, retry)
    if run.state == "running":  # unless whoever was at it has fallen silent
        return run.status is not None and is_silent(run.status)
    return run.state != "failed" or _is_retried(run, retry)  # a damaged one here is to be mended


def _evaluable(run: Planned, retry: Failed | None) -> bool:
    """Whether a finished run has evaluations to be done: failed ones only if they are retried."""
    return any(
        unit.state not in ("done", "damaged")
        and (unit.failure is None or (retry is not None and unit.failure in retry))
        for unit in run.units.declared.values()
    )


def _is_retried(run: Planned, retry: Failed | None) -> bool:
    if run.status is None or run.state != "failed" or retry is None:
        return False
    return (run.status.failure or records.FailureRecord()) in retry


def _entry(
    run: Planned,
    store: RunStore,
    state: SweepState,
    retry: Failed | None,
    asked: Mapping[str, int],
) -> Entry:
    """The queue's entry of a run; makes sure that its folder exists.

    `asked` are the retries that a former launch asked for; they stay asked for.
    """
    folder = prepare(run.training, store, state)
    until = asked.get(folder.name)
    if run.status is not None and _is_retried(run, retry):
        until = run.status.attempts
    return Entry(
        run=folder.name,
        label=run.training.label,
        shares=run.training.shares,
        retry_until=until,
        evaluate=run.state == "done" and _evaluable(run, retry),
        trial=run.trial,
        resources=run.training.points[0].resources,
    )


def prepare(training: Training, store: RunStore, state: SweepState) -> RunFolder:
    """The run's folder, created if it is missing, with the config that this sweep runs it under.

    Raises:
        RunError: if the folder was written by another config.
    """
    folder = store.open(training.run, training.identity)
    config = masking.stored(json.loads(json.dumps(to_dict(training.run))))
    other = state.config(folder.name)
    if config != folder.config or trust.is_foreign(folder.folder, folder.record):
        write_json(other, config)
    else:
        other.unlink(missing_ok=True)
    return folder
