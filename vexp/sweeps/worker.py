"""A worker: takes a run of a sweep that nobody is at, runs it in a process of its own, and again.

A run that crashes takes its process with it, not the worker. What happened is read from the run's
folder; only an end that left no trace there is recorded by the worker.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from vexp.runs import failure
from vexp.runs.claim import read_marks
from vexp.runs.heartbeat import BEATS, DEFAULT, looks_silent
from vexp.runs.lock import turn
from vexp.runs.status import RunStatus
from vexp.runs.stop import StopRequest
from vexp.runs.store import RunFolder
from vexp.runs.workspace import now
from vexp.sweeps.circuit_breaker import held
from vexp.sweeps.record_end import Aftermath
from vexp.sweeps.retry_policy import RetryPolicy
from vexp.sweeps.search.propose import entries, propose
from vexp.sweeps.search.study import record_of
from vexp.sweeps.state import Entry, SweepState
from vexp.sweeps.supervise import Ended, supervise
from vexp.sweeps.worker_slots import HeldSlot, Slot, held_slots

RUN = (sys.executable, "-m", "vexp", "_run")
# Ended on request: the run goes on from its checkpoint at the next launch.
_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM)
# Killed from outside, perhaps for memory: also goes on from its checkpoint.
_KILLED = (-signal.SIGKILL, -signal.SIGHUP)
_TURN_S = BEATS * DEFAULT.interval_s  # so long a worker waits for another one that chooses
Served = tuple[str, int]  # a run, and the number of the launch that asked for it
_TAIL = 4000  # bytes of a crashed process's output that are kept as its traceback


def work(state: SweepState, number: int, *, command: Sequence[str] = RUN) -> None:
    """Serve a sweep from slot `number` until nothing is left to do; not if the slot is taken."""
    slot = Slot(state.workers, number)
    with StopRequest() as stop:
        served: set[Served] = set()
        while not stop:
            with slot.held() as hold:
                if hold is None:
                    return
                _Worker(state, slot, hold, stop, command, served).serve()
            # A launch that came while this worker was leaving found the slot taken: look again.
            if stop or _next(state, served) is None:
                return


def due(status: RunStatus | None, entry: Entry) -> bool:
    """Whether a run has work left that a worker may begin now."""
    if status is None:
        return False
    if status.state == "done":
        return entry.evaluate
    if status.state == "failed":
        return entry.retry_until is not None and status.attempts <= entry.retry_until
    if status.state == "running":  # elsewhere; if it truly is silent, the run's process will see
        return is_silent(status)
    if status.state == "damaged":
        return status.mends
    if status.state == "pruned":  # for good, unless another sweep wants the whole run
        return entry.trial is None
    return status.state in ("new", "stopped")


def is_silent(status: RunStatus) -> bool:
    """Whether a running run has given no sign of life for so long that it is worth trying.

    By clocks, so this is a hint: the process that tries it watches the heartbeat itself.
    """
    return looks_silent(status.silent_s)


def next_entry(
    state: SweepState, served: Collection[Served] = (), taken: Collection[str] = ()
) -> Entry | None:
    """The run to begin next: the first that is due and that no worker is at.

    `served` are those that this worker has been at since the launch that asked for them.

    One whose first stage another worker is just building would only wait for it, so it comes last.
    Of a sweep that is held, no run is next.
    """
    queue = entries(state, state.queue())
    if held(state, queue) is not None:
        return None
    building = {
        entry.shares
        for entry in queue
        if entry.run in taken and entry.shares and not _built(state, entry.shares)
    }
    waiting: Entry | None = None
    for entry in queue:
        if entry.run in taken or (entry.run, entry.launch) in served:
            continue
        if not due(state.status(entry.run), entry):
            continue
        if entry.shares not in building:
            return entry
        waiting = waiting or entry
    return waiting


def _next(
    state: SweepState, served: Collection[Served] = (), taken: Collection[str] = ()
) -> Entry | None:
    """As `next_entry`; where a search has nothing left to do, one more trial is proposed."""
    while (entry := next_entry(state, served, taken)) is None:
        if held(state, entries(state, state.queue())) is not None or not propose(state):
            return None
    return entry


@dataclass
class _Worker:
    """One stay in a slot."""

    state: SweepState
    slot: Slot
    hold: HeldSlot
    stop: StopRequest
    command: Sequence[str]
    served: set[Served] = field(default_factory=set)

    def serve(self) -> None:
        while not self.stop:
            entry = self._take()
            if entry is None:
                return
            self._run(entry)

    def _take(self) -> Entry | None:
        """Choose the next run and say so in the slot, one worker at a time.

        Two that choose at once may choose alike; then one of them finds the run claimed.
        """
        with turn(self.state.workers / "choosing.lock", _TURN_S, lambda: bool(self.stop)):
            if self.stop or not self.hold.mine():
                return None
            holders = held_slots(self.state.workers)
            taken = {holder.run for holder in holders if holder.run and not holder.looks_silent}
            entry = _next(self.state, self.served, taken)
            self.hold.at(entry.run if entry else None)
        return entry

    def _run(self, entry: Entry) -> None:
        self.served.add((entry.run, entry.launch))
        folder = self.state.results_dir / "runs" / entry.run
        self._event("started", entry)
        _say(f"{entry.label} ({entry.run})")
        begin = self.slot.log.stat().st_size if self.slot.log.exists() else 0
        config = self.state.config(entry.run)
        options = ["--config", str(config)] if config.exists() else []
        if entry.trial is not None and (record := record_of(self.state, entry.trial)):
            options += ["--trial", str(record)]
        ended = self._to_its_end([*self.command, str(folder), *options], entry)
        status = self.state.status(entry.run)
        if status is not None and status.state in ("new", "stopped") and self._crashed(ended.code):
            self._record_failure(RunFolder(folder), ended.code, begin)
        self._event("ended", entry, exit_code=ended.code)
        _say(f"{entry.label} ended with exit code {ended.code}")

    def _to_its_end(self, command: Sequence[str], entry: Entry) -> Ended:
        """Run the process of a run; once more where it was ended for an end that is survived."""
        folder = self.state.results_dir / "runs" / entry.run
        policy = RetryPolicy.read(self.state.folder)
        aftermath = Aftermath(RunFolder(folder), policy, entry.retry_until or 0)
        while True:
            first = read_marks(folder).next
            ended = supervise(
                command,
                folder,
                stopping=lambda: bool(self.stop),
                stuck_after_s=policy.stuck_after_s,
            )
            # One that was killed by hand goes on at the next launch, not against somebody's will.
            watched = ended.seen() if ended.stuck_s or ended.out_of_memory else None
            seen = watched or aftermath.lost(first)
            if seen is None or self.stop:
                return ended
            _say(f"{entry.label}: {': '.join(seen)}")
            if not aftermath.again(*seen, first):
                return ended

    def _crashed(self, code: int) -> bool:
        return code not in (0, *_STOPPED, *_KILLED) and not self.stop

    def _record_failure(self, run: RunFolder, code: int, begin: int) -> None:
        """Make an end that left no trace in the run's folder a failed attempt of it."""
        output = ""
        if self.slot.log.exists():
            with self.slot.log.open("rb") as file:
                file.seek(max(begin, self.slot.log.stat().st_size - _TAIL))
                output = file.read().decode(errors="replace")
        Aftermath(run, RetryPolicy()).fail(crash(code, output), output)

    def _event(self, event: str, entry: Entry, **more: int) -> None:
        row = {"event": event, "run": entry.run, "worker": self.slot.name, "time": time.time()}
        self.state.event(row | more)


def crash(code: int, output: str) -> failure.Failure:
    """The record of a process that ended without leaving one itself."""
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    last = next((line for line in reversed(output.splitlines()) if line.strip()), "")
    return failure.Failure(
        kind="config" if code == 2 else "code",  # 2: a mistake in the request
        error="Crash",
        message=f"the run's process ended without a record ({how}): {last.strip()}",
        signature=f"process ended: {how}",
        at=now(),
    )


def _built(state: SweepState, stage: str) -> bool:
    return (state.results_dir / "stages" / stage).is_dir()


def _say(text: str) -> None:
    sys.stdout.write(f"[{time.strftime('%H:%M:%S')}] worker {os.getpid()}: {text}\n")
    sys.stdout.flush()
