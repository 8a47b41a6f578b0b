"""Taking over from the dead while somebody waits for a sweep: runs and workers that fall silent.

Silence is measured by this process's own clock, as every watcher of a heartbeat does; whoever was
thought dead finds its claim gone and publishes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from vexp.errors import RunError
from vexp.launcher.base import Launcher, Worker
from vexp.runs import failure
from vexp.runs.claim import attempt_folder, read_marks
from vexp.runs.heartbeat import BEATS, Timing, Watch
from vexp.runs.process_id import Owner
from vexp.runs.store import RunFolder
from vexp.sweeps.launch import launch
from vexp.sweeps.plan import Plan, Planned, refreshed
from vexp.sweeps.record_end import Aftermath
from vexp.sweeps.retry_policy import SURVIVABLE, RetryPolicy
from vexp.sweeps.worker_slots import held_slots

_TIMING = Timing(poll_s=1.0)  # as often as a sweep is looked at while somebody waits


@dataclass
class Takeover:
    """What `vexp launch --wait` does beyond looking: it starts again what nobody is at any more."""

    launcher: Launcher
    note: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    _watches: dict[str, Watch] = field(default_factory=dict)
    _tried: set[tuple[str, int]] = field(default_factory=set)

    def look(self, plan: Plan, workers: Sequence[Worker]) -> bool:
        """Take over from whoever is dead by now, and launch; whether anything was to be done.

        `workers` are those that the launcher counts as alive.
        """
        taken = [*self._runs(plan, workers), *self._slots(plan), *self._lost(plan, workers)]
        for line in taken:
            self.note(line)
        if taken:
            launch(refreshed(plan), self.launcher)
        return bool(taken)

    def _runs(self, plan: Plan, workers: Sequence[Worker]) -> Iterator[str]:
        """Runs of silent owners."""
        jobs = {worker.name: worker for worker in workers}
        for run in plan.runs:
            status = run.status
            if run.state != "running" or status is None or status.owner is None:
                continue
            owner = status.owner
            job = jobs.get(owner.job) if owner.job else None
            heartbeat = attempt_folder(status.folder, owner.attempt) / "heartbeat"
            watch = self._watch(run.name)
            if watch.judge(owner, heartbeat) != "dead" or not self._ended(job, owner, watch):
                continue
            message = f"{owner} gave no heartbeat for {watch.silent_s:.0f} s"
            if self._aftermath(plan, run).take(owner.attempt, "infra", message):
                if job is None:  # else it begins again when its job has left the queue
                    self._tried.add((run.name, owner.attempt))
                yield f"{run.training.label}: {message}; taken over"

    def _slots(self, plan: Plan) -> Iterator[str]:
        """Places of silent workers, but for those whose run goes on: the machine is in use."""
        at_work = {run.name for run in plan.runs if run.state == "running"}
        for holder in held_slots(plan.state.workers):
            slot, owner = holder.slot, holder.owner
            if owner is None or not slot.heartbeat.exists():
                continue
            watch = self._watch(slot.name)
            dead = watch.judge(owner, slot.heartbeat) == "dead" and not owner.gone()
            if dead and holder.run not in at_work:
                slot.evict(owner)
                yield f"worker {slot.name} ({owner}) gave no heartbeat for {watch.silent_s:.0f} s"

    def _ended(self, job: Worker | None, owner: Owner, watch: Watch) -> bool:
        """Whether nobody else sees to a silent owner's end, and a job that hangs is ended.

        Its task comes first, and hangs as well if it does nothing. One that Slurm suspended sleeps.
        """
        if job is None:
            return True
        patience_s = (owner.expiry_s or _TIMING.expiry_s) + BEATS * _TIMING.interval_s
        if job.state != "running" or watch.silent_s < patience_s:
            return False
        try:
            self.launcher.end(job)
        except RunError as error:
            self.note(str(error))
            return False
        return True

    def _lost(self, plan: Plan, workers: Sequence[Worker]) -> Iterator[str]:
        """Runs that nobody is at, and whose last attempt was lost rather than stopped."""
        busy = {worker.run for worker in workers}  # a worker of this machine may take any
        for run in plan.runs:
            status = run.status
            if None in busy or run.name in busy:
                continue
            if run.state != "stopped" or status is None:
                continue
            if (run.name, status.attempts) in self._tried:
                continue
            self._tried.add((run.name, status.attempts))
            live = read_marks(status.folder).live
            message = "its process is gone"
            if live is not None and self._aftermath(plan, run).take(live, "infra", message):
                yield f"{run.training.label}: {message}; started again"
            elif live is None and (reason := _survivable(run)):
                yield f"{run.training.label}: {reason}; started again"

    def _watch(self, name: str) -> Watch:
        return self._watches.setdefault(name, Watch(_TIMING, self.clock))

    def _aftermath(self, plan: Plan, run: Planned) -> Aftermath:
        assert run.status is not None
        forgiven = plan.state.retries().get(run.name, 0)
        return Aftermath(
            RunFolder(run.status.folder), RetryPolicy.read(plan.state.folder), forgiven
        )


def _survivable(run: Planned) -> str:
    """Why a run that goes on by itself was lost; empty for one that was stopped on request."""
    assert run.status is not None
    home = attempt_folder(run.status.folder, run.status.attempts)
    record = failure.recorded(home)
    if record is None or record.kind not in SURVIVABLE:
        return ""
    return record.message or record.kind
