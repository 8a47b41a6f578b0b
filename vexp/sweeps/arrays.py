"""The runs of a sweep as Slurm job arrays: which are submitted, which are missing, who is alive.

    jobs/<batch>.json     one submission: its runs, in the order of the array's tasks
    jobs/<batch>/         the submitted script, and a log of each task
    jobs/<batch>/<task>.json   the run that a task has gone on to: of a search, see search/chain.py
    jobs/submitting/      the claim of whoever is submitting

The batch is written before Slurm is asked, and its name is part of the job's name. So a process
that is killed in the middle of a submission leaves either nothing in the queue, or jobs whose runs
everybody finds by that name. What counts as taken is what Slurm says: a job that is gone has no
run any more, whatever was written about it.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vexp.errors import RunError
from vexp.files import fsync_folder, read_json, storage_errors, write_json
from vexp.launcher.base import Worker
from vexp.runs.claim import acquire, attempt_folder, end_lost
from vexp.runs.failure import RECORD, observed
from vexp.runs.store import RunFolder, RunStatus
from vexp.runs.workspace import now
from vexp.sweeps import slurm, snapshot
from vexp.sweeps.policy import Policy
from vexp.sweeps.search.propose import entries, filled
from vexp.sweeps.search.study import Study
from vexp.sweeps.state import Entry, SweepState

FORMAT = 1

_FRESH_S = 5.0  # for so long an answer of squeue serves who is only watching
_PATIENCE_S = 300.0  # and for so long the last one, while the controller does not answer


_watched: dict[Path, tuple[float, list[Worker]]] = {}


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


@dataclass(frozen=True)
class Batch:
    """One submission."""

    name: str
    runs: tuple[str, ...]  # the run of each task
    code: str  # name of the folder with the code that runs it
    job: str | None = None  # None: whoever submitted it has not lived to write it down

    @classmethod
    def read(cls, state: SweepState, name: str) -> Batch | None:
        record = read_json(_home(state) / f"{name}.json")
        if not isinstance(record, dict) or record.get("format", FORMAT + 1) > FORMAT:
            return None
        return cls(name, tuple(record["runs"]), record["code"], record.get("job"))

    def write(self, state: SweepState) -> None:
        content = {"format": FORMAT, "job": self.job, "code": self.code, "at": now()}
        write_json(_home(state) / f"{self.name}.json", content | {"runs": list(self.runs)})

    def run(self, state: SweepState, task: int) -> str:
        """The run that a task is at."""
        moved = read_json(_logs(state, self.name) / f"{task}.json")
        return str(moved["run"]) if isinstance(moved, dict) else self.runs[task]

    def move(self, state: SweepState, task: int, run: str) -> None:
        """Say that a task has gone on to another run."""
        write_json(_logs(state, self.name) / f"{task}.json", {"run": run})

    def log(self, state: SweepState, job: str) -> Path:
        """Where the task that Slurm knows as `job` prints."""
        return _log(state, self.name, job)

    def code_folder(self, state: SweepState) -> Path:
        return state.folder / "code" / self.code


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
        _asking(submitter, asked).check(_home(state))
    with submitting(state):
        living = live(state)
        due = missing(state, living)
        if search:
            room = submitter.workers - len(at_work(state, living))
            due = filled(state, lambda: missing(state, living), room)
        if not due:
            return []
        code = snapshot.take(state.folder / "code", _plugins(state, due))
        return submit(state, submitter, due, code)


def submit(
    state: SweepState, submitter: Submitter, runs: Sequence[Entry], code: Path
) -> list[Worker]:
    """Submit runs that are nobody's, while `submitting`.

    Raises:
        SlurmError: Slurm is not there, or takes no such jobs.
    """
    started: list[Worker] = []
    for some, asked in _arrays(runs, slurm.max_array_size()):
        batch = Batch(secrets.token_hex(5), tuple(entry.run for entry in some), code.name)
        batch.write(state)
        work = ["_task", str(state.folder), batch.name]
        logs, name = _logs(state, batch.name), job_name(state, batch.name)
        job = _asking(submitter, asked).submit(logs, name, code, work, len(some))
        Batch(batch.name, batch.runs, batch.code, job).write(state)
        started += [
            Worker(f"{job}_{task}", _log(state, batch.name, f"{job}_{task}"), run, "pending")
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
    batches: dict[str, Batch | None] = {}
    found = []
    for job in slurm.jobs():
        name = job.name.partition(".")[0].removeprefix("vexp-")
        if not job.name.startswith("vexp-"):
            continue
        if name not in batches:
            batches[name] = Batch.read(state, name)
        batch, number = batches[name], job.id.partition("_")[2]
        task = int(number) if number.isdecimal() else -1
        if batch is not None and 0 <= task < len(batch.runs):
            found.append(
                Worker(
                    job.id, _log(state, name, job.id), batch.run(state, task),
                    job.state.lower(), job.node, "" if job.runs else job.reason,
                )
            )  # fmt: skip
    return found


def watched(state: SweepState) -> list[Worker]:
    """As `live`, for who looks often: asks Slurm seldom, and bears with a controller that restarts.

    What became of jobs that are gone is recorded, so that nobody waits for them.
    """
    at, found = _watched.get(state.folder, (float("-inf"), []))
    age_s = time.monotonic() - at
    if age_s < _FRESH_S:
        return found
    try:
        found = live(state)
    except slurm.SlurmError:
        if age_s > _PATIENCE_S:
            raise
        return found
    with contextlib.suppress(RunError):  # no queue yet: never launched
        settle(state, found)
    _watched[state.folder] = (time.monotonic(), found)
    return found


def settle(state: SweepState, living: Iterable[Worker]) -> None:
    """Record what became of runs whose job has ended without a word: killed for memory, say.

    Only what Slurm says counts, and only for jobs of this sweep; so nobody's clock is asked.
    """
    policy, here = Policy.read(state.folder), {worker.name for worker in living}
    ours = {batch.job for batch in _batches(state)}
    silent: dict[str, tuple[Entry, RunStatus]] = {}
    for entry in entries(state, state.queue()):
        status = state.status(entry.run)
        if status is None or status.state != "running" or status.owner is None:
            continue
        job = status.owner.job
        if job and job not in here and job.partition("_")[0] in ours:
            silent[job] = (entry, status)
    for job, last in slurm.ended(silent).items() if silent else ():
        if job in silent and last not in ("PENDING", "RUNNING", "NODE_FAIL"):
            entry, status = silent[job]
            _end(status, entry, policy, job, last)


def cancel(state: SweepState) -> list[Worker]:
    """Take waiting jobs of the sweep out of the queue, and ask running ones to save and end."""
    found = live(state)
    waiting = [worker.name for worker in found if worker.reason or worker.state == "pending"]
    running = [worker.name for worker in found if worker.name not in waiting]
    slurm.cancel(waiting, running)
    return found


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
        for batch in _batches(state)
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
    return owner.job.partition("_")[0] in {batch.job for batch in _batches(state)}


def _end(status: RunStatus, entry: Entry, policy: Policy, job: str, last: str) -> None:
    """Make the live claim of a job that has ended an ended attempt, failed if that is enough."""
    attempt = status.owner.attempt if status.owner else 0
    kind = slurm.kind_of(last)
    message = f"job {job} ended in Slurm as {last}, without a record"
    home = attempt_folder(status.folder, attempt)
    if read_json(home / RECORD) is None:
        write_json(home / RECORD, observed(kind, message, now()).to_dict())
    if not end_lost(status.folder, attempt):
        return
    if kind != "interrupted" and not policy.goes_on(status.folder, kind, entry.retry_until or 0):
        write_json(home / RECORD, policy.exhausted(kind, message).to_dict())
        with storage_errors(status.folder), contextlib.suppress(FileNotFoundError):
            ended = status.folder / f"claim-{attempt:04d}.expired"
            ended.rename(ended.with_suffix(".failed"))
            fsync_folder(status.folder)


@contextlib.contextmanager
def submitting(state: SweepState) -> Iterator[None]:
    """Run the block in one process at a time, on whichever machine; a dead one's turn is over."""
    home = _home(state) / "submitting"
    with storage_errors(home):
        home.mkdir(parents=True, exist_ok=True)
    claim = acquire(home, wait=True)
    assert claim is not None  # nothing here is ever done
    try:
        yield
    finally:
        claim.release("stopped")


def _plugins(state: SweepState, entries: Iterable[Entry]) -> set[Path]:
    """The plugin files that these runs load."""
    found: set[str] = set()
    for entry in entries:
        config = read_json(state.config(entry.run))
        if not isinstance(config, dict):
            config = RunFolder(state.results_dir / "runs" / entry.run).config
        found |= set(config.get("plugins", ()))
    return {Path(plugin) for plugin in found}


def _batches(state: SweepState) -> Iterator[Batch]:
    for path in sorted(_home(state).glob("*.json")):
        batch = Batch.read(state, path.stem)
        if batch is not None:
            yield batch


def _home(state: SweepState) -> Path:
    return state.folder / "jobs"


def _logs(state: SweepState, batch: str) -> Path:
    return _home(state) / batch


def _log(state: SweepState, batch: str, job: str) -> Path:
    return _logs(state, batch) / f"{job}_0_log.out"
