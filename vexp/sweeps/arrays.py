"""The runs of a sweep as Slurm job arrays: which are submitted, which are missing, who is alive.

    jobs/<batch>…         one submission: see vexp.sweeps.batch
    jobs/submitting/      the claim of whoever is submitting

What counts as taken is what Slurm says: a job that is gone has no run any more, whatever was
written about it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from vexp.errors import Interrupted, RunError, StorageError
from vexp.files import read_json, storage_errors
from vexp.launcher.base import Worker
from vexp.runs.claim import Claim, acquire, end_lost
from vexp.runs.heartbeat import BEATS, DEFAULT, duration
from vexp.runs.process_id import Owner
from vexp.runs.status import RunStatus
from vexp.runs.store import RunFolder
from vexp.sweeps import slurm, snapshot
from vexp.sweeps.batch import Batch, batches, home, logs
from vexp.sweeps.search.propose import entries, filled
from vexp.sweeps.search.study import Study
from vexp.sweeps.settle import settle
from vexp.sweeps.state import Entry, SweepState
from vexp.sweeps.supervise import Standstill

_FRESH_S = 5.0  # for so long an answer of squeue serves who is only watching
_GLANCE_S = 1.0  # for so long a watcher that has an answer waits for the next one
_PATIENCE_S = 300.0  # and for so long the last one serves while the controller does not answer
# So long may another process submit without a sign of getting on: three calls of Slurm.
_TURN_S = 3 * slurm.LIMIT_S + BEATS * DEFAULT.interval_s


class Submitter(Protocol):
    """The launcher's side of a submission."""

    @property
    def workers(self) -> int:
        """How many runs of a submission, or of a search, are at work at the same time."""

    @property
    def successor(self) -> str:
        """`submit` or `pull`: who goes on with a search."""

    def asking(self, resources: Mapping[str, Any]) -> Submitter:
        """The launcher with the resources of some runs."""

    def check(self, logs: Path) -> None:
        """Raises SlurmError if Slurm would never run such jobs."""

    def submit(self, logs: Path, name: str, code: Path, work: Sequence[str], count: int) -> str:
        """The job id of an array called `name`, of `count` tasks that run `vexp WORK`."""


def submit_missing(state: SweepState, submitter: Submitter) -> list[Worker]:
    """Submit what is due and not in the queue; two processes that try take turns.

    Of a search, trials are proposed until as many runs are at work as the launcher allows.

    Raises:
        SlurmError: Slurm is not there, or takes no such jobs.
    """
    search = Study.load(state) is not None
    wanted = missing(state, live(state))
    if not wanted and not search:
        return []
    for asked in [asked for _, asked in _arrays(wanted, len(wanted))] or [{}]:
        _asking(submitter, asked).check(home(state))
    with submitting(state) as turn:
        living = live(state)
        due = missing(state, living)
        if search:
            room = submitter.workers - len(at_work(state, living))
            due = filled(state, lambda: missing(state, living), room)
        if not due:
            return []
        code = snapshot.take(state.folder / "code", _plugins(state, due))
        return submit(state, submitter, due, code, turn)


def submit(
    state: SweepState, submitter: Submitter, runs: Sequence[Entry], code: Path, turn: Claim
) -> list[Worker]:
    """Submit runs that are nobody's, while `submitting`, whose `turn` it is.

    Raises:
        ClaimLost: another process has taken over; nothing more was submitted.
        SlurmError: Slurm is not there, or takes no such jobs.
    """
    started: list[Worker] = []
    for some, asked in _arrays(runs, slurm.max_array_size()):
        batch = Batch(secrets.token_hex(5), tuple(entry.run for entry in some), code.name)
        batch.write(state)
        turn.ensure()  # a submitter that was frozen, and is thought dead, submits nothing
        work = ["_task", str(state.folder), batch.name]
        place, name = logs(state, batch.name), job_name(state, batch.name)
        try:
            job = _asking(submitter, asked).submit(place, name, code, work, len(some))
        except slurm.SlurmError:
            known = Batch.read(state, batch.name)
            if known is None or known.job is None:
                raise
            job = known.job  # it has come and gone while nobody answered
        Batch(batch.name, batch.runs, batch.code, job).write(state)
        started += [
            Worker(f"{job}_{task}", batch.log(state, f"{job}_{task}"), run, "pending")
            for task, run in enumerate(batch.runs)
        ]
    return started


def _asking(submitter: Submitter, resources: Mapping[str, Any]) -> Submitter:
    return submitter.asking(resources) if resources else submitter


def _arrays(entries: Sequence[Entry], size: int) -> Iterator[tuple[list[Entry], Mapping[str, Any]]]:
    """Entries that ask for the same resources, at most `size` together."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(json.dumps(entry.resources, sort_keys=True), []).append(entry)
    for group in groups.values():
        for first in range(0, len(group), size):
            yield group[first : first + size], group[0].resources


def live(state: SweepState) -> list[Worker]:
    """The sweep's jobs in the queue.

    Raises:
        SlurmError: Slurm does not answer; nothing is known then.
    """
    known: dict[str, Batch | None] = {}
    found = []
    for job in slurm.jobs():
        name = job.name.partition(".")[0].removeprefix("vexp-")
        if not job.name.startswith("vexp-"):
            continue
        if name not in known:
            known[name] = _named(state, name, job.id.partition("_")[0])
        batch, number = known[name], job.id.partition("_")[2]
        task = int(number) if number.isdecimal() else -1
        if batch is not None and 0 <= task < len(batch.runs):
            found.append(
                Worker(
                    job.id, batch.log(state, job.id), batch.run(state, task),
                    job.state.lower(), job.node, "" if job.runs else job.reason,
                )
            )  # fmt: skip
    return found


def _named(state: SweepState, name: str, job: str) -> Batch | None:
    """The batch that a job in the queue names; its id is noted if its submitter got no answer."""
    batch = Batch.read(state, name)
    if batch is not None and batch.job is None:
        batch = replace(batch, job=job)
        with contextlib.suppress(StorageError, OSError):  # whoever only looks may not write
            batch.write(state)
    return batch


def watched(state: SweepState) -> list[Worker]:
    """As `live`, for who looks often: asks Slurm seldom, and bears with a controller that restarts.

    What became of jobs that are gone is recorded, so that nobody waits for them. Slurm is asked in
    a thread: whoever has an answer does not hang with it.
    """
    return _answers.setdefault(state.folder, _Answer(state)).now()


@dataclass
class _Answer:
    """What Slurm last said of a sweep's jobs."""

    state: SweepState
    at: float = float("-inf")
    workers: list[Worker] = field(default_factory=list)
    error: BaseException | None = None
    thread: threading.Thread | None = None

    def now(self) -> list[Worker]:
        if time.monotonic() - self.at < _FRESH_S:
            return self.workers
        if self.thread is None or not self.thread.is_alive():
            self.error = None
            self.thread = threading.Thread(target=self._ask, name="vexp-squeue", daemon=True)
            self.thread.start()
        answered = self.at > float("-inf")
        self.thread.join(_GLANCE_S if answered else None)
        late = time.monotonic() - self.at > _PATIENCE_S
        if self.error is not None and (late or not isinstance(self.error, slurm.SlurmError)):
            raise self.error
        if late:
            raise slurm.unanswered("squeue", _PATIENCE_S)
        return self.workers

    def _ask(self) -> None:
        try:
            workers = live(self.state)
            with contextlib.suppress(RunError, StorageError):  # never launched; or only to look at
                settle(self.state, workers)
        except Exception as error:  # noqa: BLE001  (raised in the thread that asked)
            self.error = error
        else:
            self.workers, self.at = workers, time.monotonic()


_answers: dict[Path, _Answer] = {}


def cancel(state: SweepState) -> list[Worker]:
    """Take waiting jobs of the sweep out of the queue, and ask running ones to save and end."""
    found = live(state)
    waiting = [worker.name for worker in found if worker.reason or worker.state == "pending"]
    running = [worker.name for worker in found if worker.name not in waiting]
    slurm.cancel(waiting, running)
    _note_cancelled(state, waiting)
    return found


def _note_cancelled(state: SweepState, jobs: Collection[str]) -> None:
    """Say of waiting jobs that somebody wanted their end."""
    for batch in batches(state):
        for task in range(len(batch.runs)):
            if f"{batch.job}_{task}" in jobs:
                with contextlib.suppress(StorageError, OSError):
                    batch.settle(state, task)


def job_name(state: SweepState, batch: str) -> str:
    """`vexp-<batch>.<sweep>`: who sees the queue knows the sweep; we go by the batch."""
    return f"vexp-{batch}.{state.name}"


def at_work(state: SweepState, living: Iterable[Worker]) -> list[Worker]:
    """Jobs whose run has not ended; those whose run has will hand over to a next one or have."""
    ended = ("done", "failed", "pruned")
    found = []
    for worker in living:
        status = state.status(worker.run or "")
        if status is None or status.state not in ended or worker.state == "pending":
            found.append(worker)
    return found


def submitted_runs(state: SweepState) -> set[str]:
    """Every run that a task was ever given: what is taken where Slurm cannot be asked."""
    return {
        run
        for batch in batches(state)
        for task, first in enumerate(batch.runs)
        for run in (first, batch.run(state, task))
    }


def missing(state: SweepState, living: Sequence[Worker]) -> list[Entry]:
    """What is due and neither queued nor running in Slurm."""
    from vexp.sweeps.worker import due

    taken = {worker.run for worker in living}
    jobs = {worker.name for worker in living}
    settle(state, living)
    found = []
    for entry in entries(state, state.queue()):
        if entry.run in taken:
            continue
        status = state.status(entry.run)
        if due(status, entry) or (status is not None and _abandoned(status, jobs, state)):
            found.append(entry)
    return found


def _abandoned(status: RunStatus, jobs: set[str], state: SweepState) -> bool:
    """A run that says it is running, in a job of this sweep that is not there any more."""
    owner = status.owner
    if status.state != "running" or owner is None or not owner.job or owner.job in jobs:
        return False
    return owner.job.partition("_")[0] in {batch.job for batch in batches(state)}


@contextlib.contextmanager
def submitting(state: SweepState) -> Iterator[Claim]:
    """Run the block in one process at a time, on whichever machine; its claim, for `ensure`.

    A dead one's turn is over, and so is that of one that lives but does not get on.
    """
    place = home(state) / "submitting"
    with storage_errors(place):
        place.mkdir(parents=True, exist_ok=True)
    claim = None
    while claim is None:
        claim = _turn(state, place)
    try:
        yield claim
    finally:
        claim.release("stopped")


def _turn(state: SweepState, place: Path) -> Claim | None:
    """The claim to submit; None after the turn of one that hangs was ended."""
    met: list[Owner] = []
    still = Standstill(home(state), signs=lambda jobs: sorted(os.listdir(jobs)))  # noqa: PTH208

    def note(owner: Owner) -> None:
        met.append(owner)
        sys.stderr.write(
            f"waiting for {owner}, which is submitting jobs of this sweep; if it does not get on "
            f"for {duration(_TURN_S)}, this one goes on\n"
        )

    try:
        return acquire(place, wait=True, told=note, stopping=lambda: still.seconds() > _TURN_S)
    except Interrupted:
        owner = met[-1]
        sys.stderr.write(f"{owner} did not get on for {duration(_TURN_S)}: going on without it\n")
        end_lost(place, owner.attempt)
        return None


def _plugins(state: SweepState, entries: Iterable[Entry]) -> set[Path]:
    """The plugin files that these runs load."""
    found: set[str] = set()
    for entry in entries:
        config = read_json(state.config(entry.run))
        if not isinstance(config, dict):
            config = RunFolder(state.results_dir / "runs" / entry.run).config
        found |= set(config.get("plugins", ()))
    return {Path(plugin) for plugin in found}
