"""What one task of a Slurm array does: it works on one run until that ends or Slurm wants it away.

Slurm says so by SIGUSR2 some time before the time limit or a preemption, and by SIGTERM when
somebody cancels. The run then saves; after SIGUSR2 the task puts itself back into the queue and
later goes on from the newest complete checkpoint on disk, wherever it is started again.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from vexp.errors import RunError
from vexp.runs.claim import read_marks
from vexp.runs.failure import Kind
from vexp.runs.process_id import slurm_job
from vexp.runs.processes import ALONE, Topology
from vexp.runs.status import RunStatus
from vexp.runs.stop import StopRequest
from vexp.runs.store import RunFolder
from vexp.sweeps import slurm
from vexp.sweeps.batch import Batch
from vexp.sweeps.circuit_breaker import held
from vexp.sweeps.record_end import Aftermath
from vexp.sweeps.retry_policy import SURVIVABLE, RetryPolicy
from vexp.sweeps.search.propose import entries
from vexp.sweeps.search.study import record_of
from vexp.sweeps.state import Entry, SweepState
from vexp.sweeps.supervise import Ended, supervise
from vexp.sweeps.worker import crash, due

RUN = (sys.executable, "-P", "-m", "vexp", "_run")
# How close to its limit a job is that is warned because of it: Slurm may be a minute early.
_EARLY_S = 90.0
_ENDED = ("done", "failed", "pruned", "damaged")
_TAIL = 4000  # bytes of a crashed process's output that are kept


def work_on(state: SweepState, batch_name: str, task: int, span: Topology = ALONE) -> int:
    """Work on the run of task number `task`; returns the exit code of the task.

    This task is in charge of the run, on however many nodes it is. Of a search, it sees to the next
    run, which it may have to work on itself.

    Raises:
        RunError: if nobody knows which run that is.
    """
    from vexp.sweeps.search.handover import hand_over

    batch = Batch.read(state, batch_name)
    if batch is None or task >= len(batch.runs):
        raise RunError("this job's list of runs is missing or damaged", where=str(state.folder))
    batch.began(state, task)
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", 0))
    name: str | None = batch.run(state, task)
    ended = TaskOutcome(0, False)
    while name is not None:
        ended = _work_on(state, batch, name, restarts, span)
        name = hand_over(state, batch, task) if ended.for_good else None
        restarts = 0
    return ended.code


@dataclass(frozen=True)
class TaskOutcome:
    """What came of one start of a task."""

    code: int  # exit code
    for_good: bool  # the run has ended, and nobody has told this task to


def _work_on(
    state: SweepState, batch: Batch, name: str, restarts: int, span: Topology
) -> TaskOutcome:
    """Work on one run, which this job began `restarts` times before."""
    entry = _entry(state, name)
    run = RunFolder(state.results_dir / "runs" / entry.run)
    status = run.status()
    if not _to_do(status, entry, restarts, RetryPolicy.read(state.folder)):
        _say(f"{entry.label} ({entry.run}): nothing to do, {status.state}")
        return TaskOutcome(0, status.state in _ENDED)
    queue = entries(state, state.queue())
    if not restarts and status.state in ("new", "stopped") and held(state, queue):
        _say(f"{entry.label} ({entry.run}): held, because the sweep's first runs all failed alike")
        return TaskOutcome(0, False)
    _say(f"{entry.label} ({entry.run}), start {restarts + 1} of job {slurm_job()}")
    arguments = [*RUN, str(run.folder), "--plugins", str(batch.code_folder(state) / "plugins")]
    if state.config(entry.run).exists():
        arguments += ["--config", str(state.config(entry.run))]
    if entry.trial is not None and (record := record_of(state, entry.trial)):
        arguments += ["--trial", str(record)]
    arguments += [f"--nodes={span.nodes}", f"--processes-per-node={span.per_node}"]
    if restarts:  # the former start's process may still live, cut off from Slurm
        arguments.append("--wait")
    return _Task(state, entry, run, batch.log(state, slurm_job())).do(arguments)


class _Task:
    """One start of a task."""

    def __init__(self, state: SweepState, entry: Entry, run: RunFolder, log: Path) -> None:
        self._state = state
        self._entry = entry
        self._run = run
        self._log = log
        self._policy = RetryPolicy.read(state.folder)
        self._again = False  # whether the run goes on after this start
        self._aftermath = Aftermath(run, self._policy, entry.retry_until or 0)

    def do(self, command: Sequence[str]) -> TaskOutcome:
        first = read_marks(self._run.folder).next
        self._event("started")
        with StopRequest() as stop:
            ended = supervise(
                command,
                self._run.folder,
                stopping=lambda: bool(stop),
                stuck_after_s=self._policy.stuck_after_s,
                memory_bytes=_memory(),
            )
            code = self._settle(ended, first, stop.signal)
        self._event("ended", exit_code=ended.code)
        _say(f"ended with exit code {ended.code}")
        ended_for_good = not stop and not self._again and self._run.status().state in _ENDED
        return TaskOutcome(code, ended_for_good)

    def _settle(self, ended: Ended, first: int, told: int | None) -> int:
        """Record why the attempt ended, where only we know, and see to it that the run goes on.

        `first` is the lowest number that an attempt of this start can have.
        """
        status = self._run.status()
        if ended.code == 0 or status.state == "done":
            return 0
        if status.state == "running":  # somewhere else: it is in good hands
            _say(f"another process works on this run: {status.owner}")
            return 0
        kind, message = self._kind(ended, status, told, first)
        if kind == "code" and status.state != "failed":
            output = self._tail()
            self._aftermath.fail(crash(ended.code, output), output)
        elif kind in SURVIVABLE and self._aftermath.again(kind, message, first):
            self._again = True
            _say(f"{kind}: {message}; back into the queue")
            if not slurm.requeue(slurm_job()):
                _say("the job could not be requeued; the next launch submits this run again")
        return ended.code if ended.code > 0 else 128 - ended.code

    def _kind(
        self, ended: Ended, status: RunStatus, told: int | None, first: int
    ) -> tuple[Kind, str]:
        seen = ended.seen()
        if seen is not None:
            return seen
        if status.state == "failed":
            found = status.failure
            return _kind_of(status), found.message if found else ""
        if told is not None:
            return why_told(told)
        if lost := self._aftermath.lost(first):
            return lost
        return ("interrupted", "stopped by hand") if ended.stopped else ("code", "")

    def _tail(self) -> str:
        """The end of what this task has printed."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, self._log.stat().st_size - _TAIL))
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    def _event(self, event: str, **more: int) -> None:
        row = {"event": event, "run": self._entry.run, "worker": slurm_job(), "time": time.time()}
        self._state.event(row | more)


def _to_do(status: RunStatus, entry: Entry, restarts: int, policy: RetryPolicy) -> bool:
    """Whether there is work left; whether a run that says so truly runs, its process finds out."""
    if status.state == "failed" and restarts:  # requeued after an end that is survived
        kind = _kind_of(status)
        return kind in SURVIVABLE and policy.goes_on(status.folder, kind, entry.retry_until or 0)
    return bool(restarts) or status.state == "running" or due(status, entry)


def _kind_of(status: RunStatus) -> Kind:
    """The kind of failure that a failed run's record has."""
    found = status.failure
    return "code" if found is None or found.kind == "unknown" else cast("Kind", found.kind)


def why_told(number: int) -> tuple[Kind, str]:
    """Why Slurm, or somebody, has told this task to end, by signal `number`."""
    job = slurm.show(slurm_job())
    if job.get("PreemptTime", "None") not in ("None", ""):
        return "preempted", "preempted by Slurm"
    state = job.get("JobState", "")
    if state in ("TIMEOUT", "PREEMPTED", "NODE_FAIL"):
        return slurm.kind_of(state), f"Slurm says {state}"
    if number != signal.SIGUSR2:
        return "interrupted", "stopped on request"
    limit, ran = slurm.minutes(job.get("TimeLimit", "")), slurm.minutes(job.get("RunTime", ""))
    delay_s = float(os.environ.get("VEXP_SIGNAL_DELAY_S", 120))
    if limit is not None and ran is not None and 60 * (limit - ran) <= delay_s + _EARLY_S:
        return "timeout", f"stopped ahead of the time limit of {limit:g} min"
    return "preempted", "preempted by Slurm"


def _entry(state: SweepState, run: str) -> Entry:
    """The queue's entry of a run; what was submitted is worked on even if a launch dropped it."""
    for entry in entries(state, state.queue()):
        if entry.run == run:
            return entry
    return Entry(run=run, label=run, evaluate=True)


def _memory() -> int | None:
    """Bytes that this job may use on this node, if it asked for an amount."""
    if megabytes := os.environ.get("SLURM_MEM_PER_NODE"):
        return int(megabytes) << 20
    each, cpus = os.environ.get("SLURM_MEM_PER_CPU"), os.environ.get("SLURM_CPUS_ON_NODE")
    return (int(each) * int(cpus)) << 20 if each and cpus else None


def _say(text: str) -> None:
    host = os.environ.get("SLURMD_NODENAME", "")
    sys.stdout.write(f"[{time.strftime('%H:%M:%S')}] {host} {text}\n")
    sys.stdout.flush()
