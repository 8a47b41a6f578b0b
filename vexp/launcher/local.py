"""Worker processes on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vexp.config.types import PositiveInt
from vexp.errors import ConfigError
from vexp.launcher import _gpus
from vexp.launcher.base import SILENT, STOPPING, Launcher, Worker
from vexp.registry import register

if TYPE_CHECKING:
    from vexp.spec.run import RunSpec
    from vexp.sweeps.worker_slots import Holder

# Read by OpenMP, MKL and OpenBLAS, and through them by torch and numpy.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@register("launcher", "local")
@dataclass(frozen=True, kw_only=True)
class Local(Launcher):
    """Worker processes on this machine; they go on when the terminal closes.

    Each worker holds a numbered slot, so that however often and from however many shells a sweep is
    launched, no more than `workers` of them are at it. Each has its even share of the GPUs.
    """

    searches = True

    workers: PositiveInt = 2  # runs at the same time
    threads: PositiveInt | None = None  # CPU threads per run; null: the cores shared out evenly

    def check_runs(self, runs: Iterable[RunSpec]) -> None:
        found = _gpus.problem(runs, self.workers, {**os.environ, **self.known()})
        if found is not None:
            raise ConfigError(found)

    def placement(self) -> str:
        return _gpus.placement(self.workers, {**os.environ, **self.known()})

    def start(self, state: Path, pending: int) -> Sequence[Worker]:
        from vexp.sweeps.worker_slots import Slot

        folder = state.resolve() / "workers"
        slots = [Slot(folder, number) for number in range(1, self.workers + 1)]
        holders = [slot.holder() for slot in slots]
        leaving = [h for h in holders if h is not None and (h.stopping or h.looks_silent)]
        free = [
            slot
            for slot, holder in zip(slots, holders, strict=True)
            if holder is None or holder in leaving
        ]
        pending += sum(holder.run is not None for holder in leaving)  # theirs go on as well
        wanted = max(0, min(pending, self.workers) - (len(slots) - len(free)))
        for slot in free[:wanted]:
            self._spawn(state.resolve(), slot.number, slot.log)
        return [Worker(slot.name, slot.log) for slot in free[:wanted]]

    def alive(self, state: Path) -> Sequence[Worker]:
        from vexp.sweeps.worker_slots import held_slots

        holders = held_slots(state.resolve() / "workers")
        return [_worker(holder) for holder in holders]

    def stop(self, state: Path) -> Sequence[Worker]:
        from vexp.sweeps.worker_slots import held_slots

        holders = held_slots(state.resolve() / "workers")
        return [Worker(h.slot.name, h.slot.log) for h in holders if h.stop()]

    def variables_of(self, number: int) -> dict[str, str]:
        """The environment of worker `number`, which has GPUs of its own where there are any."""
        variables = self.variables()
        return variables | _gpus.of_worker(number, self.workers, variables)

    def variables(self) -> dict[str, str]:
        """The whole environment of a worker and its runs."""
        threads = self.threads
        if threads is None and not os.environ.get("OMP_NUM_THREADS"):
            threads = max(1, _cores() // self.workers)
        counts = {} if threads is None else dict.fromkeys(_THREADS, str(threads))
        return {**os.environ, **counts, **self.given()}

    def command(self, state: Path, number: int) -> list[str]:
        """What a worker's process runs."""
        return [sys.executable, "-m", "vexp", "_work", str(state), "--slot", str(number)]

    def _spawn(self, state: Path, number: int, log: Path) -> None:
        """Start a worker in a session of its own, so that no terminal's end reaches it."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            subprocess.Popen(
                self.command(state, number),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.variables_of(number),
                start_new_session=True,
            )


def _worker(holder: Holder) -> Worker:
    """A worker as its slot tells; of a silent one, who it is and for how long."""
    slot = holder.slot
    if holder.looks_silent:
        return Worker(slot.name, slot.log, state=SILENT, reason=holder.silence)
    return Worker(slot.name, slot.log, state=STOPPING if holder.stopping else "running")


def _cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
