"""What became of runs whose Slurm job is gone, when the job itself has not lived to say so.

Only what Slurm says counts, and only for jobs of this sweep; so nobody's clock is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vexp.launcher.base import Worker
from vexp.runs.claim import read_marks
from vexp.runs.status import RunStatus
from vexp.runs.store import RunFolder
from vexp.sweeps import slurm
from vexp.sweeps.batch import Batch, batches
from vexp.sweeps.record_end import Aftermath
from vexp.sweeps.retry_policy import RetryPolicy
from vexp.sweeps.search.propose import entries
from vexp.sweeps.state import Entry, SweepState

# The job is alive, or may be again by itself: its processes on a lost node may live as well.
_OPEN = frozenset({
    "PENDING", "RUNNING", "NODE_FAIL", "COMPLETING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD",
    "REQUEUE_FED", "RESIZING", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "SUSPENDED",
})  # fmt: skip
_TAIL = 4000  # bytes of a log that are kept


def settle(state: SweepState, living: Iterable[Worker]) -> None:
    """Record what became of runs whose job has ended without a word: killed for memory, say, or
    before vexp began. `living` are the sweep's jobs in the queue.

    Raises:
        RunError: there is no queue, as nothing was launched.
        StorageError: it cannot be recorded.
    """
    policy, there = RetryPolicy.read(state.folder), {worker.name for worker in living}
    known = list(batches(state))
    ours, idle = {batch.job for batch in known}, {}
    silent: dict[str, tuple[Entry, RunStatus]] = {}
    for entry in entries(state, state.queue()):
        status = state.status(entry.run)
        if status is not None and status.state in ("new", "stopped"):
            idle[entry.run] = entry
        job = status.owner.job if status is not None and status.owner is not None else ""
        if status is not None and job and job not in there and job.partition("_")[0] in ours:
            silent[job] = (entry, status)
    for job, last in slurm.ended(silent).items() if silent else ():
        if job in silent and last not in _OPEN:
            _take(*silent[job], policy, job, last)
    lost = {task.job: task for task in _never_begun(state, known, there, idle)}
    for job, last in slurm.last_states(lost).items() if lost else ():
        if job in lost and last not in _OPEN and lost[job].batch.settle(state, lost[job].number):
            _count(state, lost[job], policy, last)


def _take(entry: Entry, status: RunStatus, policy: RetryPolicy, job: str, last: str) -> None:
    """Take a run from a job that has ended."""
    attempt = status.owner.attempt if status.owner else 0
    aftermath = Aftermath(RunFolder(status.folder), policy, entry.retry_until or 0)
    message = f"job {job} ended in Slurm as {last}, without a record"
    aftermath.take(attempt, slurm.kind_of(last), message)


@dataclass(frozen=True)
class _Task:
    """One task of an array whose job is gone."""

    batch: Batch
    number: int
    entry: Entry

    @property
    def job(self) -> str:
        return f"{self.batch.job}_{self.number}"


def _never_begun(
    state: SweepState, known: Iterable[Batch], there: set[str], idle: Mapping[str, Entry]
) -> Iterator[_Task]:
    """Tasks of runs that nobody is at, which are not in the queue and never came as far as vexp."""
    for batch in known:
        for number, run in enumerate(batch.runs) if batch.job else ():
            task = _Task(batch, number, idle[run]) if run in idle else None
            if task and task.job not in there and not batch.settled(state, number):
                yield task


def _count(state: SweepState, task: _Task, policy: RetryPolicy, last: str) -> None:
    """Count the end of a task against its run, unless somebody wanted it."""
    kind = slurm.kind_of(last)
    if kind == "interrupted":
        return
    log = task.batch.log(state, task.job)
    output = _tail(log)
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    lines = [line for line in lines if "Exited with exit code" not in line] or lines  # srun's
    how = f"ended in Slurm as {last}" if last else "is gone from Slurm"
    says = f"the last line of its log: {lines[-1]}" if lines else "it left no log"
    message = f"job {task.job} {how} before vexp began; {says} ({log})"
    folder = state.results_dir / "runs" / task.entry.run
    aftermath = Aftermath(RunFolder(folder), policy, task.entry.retry_until or 0)
    aftermath.again(kind, message, read_marks(folder).next, f"{output}{message}\n")


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
