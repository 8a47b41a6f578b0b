"""Watching the process of one run: pass on a stop, end it when it is stuck, say how it ended."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vexp.runs.claim import attempt_folder, read_marks, read_owner
from vexp.runs.failure import Kind
from vexp.runs.heartbeat import BEATS, DEFAULT, Timing, Watch

_POLL_S = 0.2
_DYING_S = BEATS * DEFAULT.interval_s  # what a killed process gets to be gone
_LOOK_S = 1.0  # between two looks at a heartbeat
# Slurm signals every process of a job step. Those that have not said what SIGUSR2 means to them,
# libraries' helpers say, must not die of it.
_WITHOUT_USR2 = ("sh", "-c", 'trap "" USR2; exec "$@"', "vexp")
_SAVING_S = 120.0  # what a stuck process gets to save and end, before it is killed
# Ended on request: the run goes on from its checkpoint.
_STOPPED = {128 + n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)} | {
    -signal.SIGINT,
    -signal.SIGTERM,
    -signal.SIGUSR2,
}
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)


@dataclass(frozen=True)
class Ended:
    """How a run's process ended."""

    code: int  # as subprocess has it: -9 for SIGKILL
    stuck_s: float | None = None  # it was ended because nothing had moved for so long
    out_of_memory: bool = False
    hung_s: float | None = None  # it was killed because its heart had stood still for so long

    @property
    def stopped(self) -> bool:
        """It saved and ended on request."""
        return self.stuck_s is None and self.code in _STOPPED

    def seen(self) -> tuple[Kind, str] | None:
        """What only a watcher can know about the end; None if the process knew best itself."""
        if self.hung_s is not None:
            return "infra", f"killed: its process hung, without a heartbeat for {self.hung_s:.0f} s"
        if self.stuck_s is not None:
            return "infra", f"stopped: no progress for {self.stuck_s / 60:.0f} min"
        if self.out_of_memory:
            return "oom", "killed: out of memory"
        if self.code in _KILLED:
            return "infra", "killed by SIGKILL, perhaps for memory"
        if self.code == -signal.SIGHUP:
            return "infra", "killed by SIGHUP"
        return None


def supervise(
    command: Sequence[str],
    run: Path,
    *,
    stopping: Callable[[], bool],
    stuck_after_s: float | None = None,
    memory_bytes: int | None = None,
) -> Ended:
    """Run `command`, which works on the run folder `run`, to its end.

    A stop is passed on once as SIGTERM. `memory_bytes` is what the process may use at most, where
    somebody enforces that.
    """
    kills = oom_kills()
    process = subprocess.Popen([*_WITHOUT_USR2, *command], stdin=subprocess.DEVNULL)
    still, heart = Standstill(run), Heart(run, process.pid)
    passed_on, stuck_s, hung_s, killed_at = False, None, None, float("inf")
    left_at = float("inf")
    while True:
        if stopping() and not passed_on:
            process.send_signal(signal.SIGTERM)
            passed_on = True
        if stuck_after_s is not None and stuck_s is None and still.seconds() > stuck_after_s:
            stuck_s = still.seconds()
            process.send_signal(signal.SIGTERM)
            killed_at = time.monotonic() + min(_SAVING_S, stuck_after_s)
        if hung_s is None and (hung_s := heart.silent_s()) is not None:
            process.kill()  # a process that hangs hears nothing else
            left_at = time.monotonic() + _DYING_S
        if time.monotonic() > left_at:  # in a call of the kernel that does not end: a dead mount
            code = -signal.SIGKILL
            break
        if time.monotonic() > killed_at:
            process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(timeout=_POLL_S)
            break
    at_fault = code in _KILLED and stuck_s is None and hung_s is None
    out_of_memory = at_fault and (oom_kills() > kills or _at_limit(memory_bytes))
    return Ended(code, stuck_s, out_of_memory, hung_s)


class Heart:
    """The heartbeat of a process of this host that owns a run's folder, or will."""

    def __init__(self, run: Path, pid: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._run = run
        self._pid = pid
        self._clock = clock
        self._watch = Watch(Timing(poll_s=_LOOK_S), clock)
        self._looked_at = clock()

    def silent_s(self) -> float | None:
        """For how long it has stood still, once that is longer than the claim allows."""
        if self._clock() - self._looked_at < _LOOK_S:
            return None
        self._looked_at = self._clock()
        live = read_marks(self._run).live
        owner = read_owner(self._run, live) if live is not None else None
        if live is None or owner is None or owner.pid != self._pid or not owner.here_too():
            return None
        verdict = self._watch.judge(owner, attempt_folder(self._run, live) / "heartbeat")
        return self._watch.silent_s if verdict == "dead" and not owner.gone() else None


class Standstill:
    """For how long nothing has moved in a folder, a run's, by this process's own clock."""

    def __init__(
        self,
        folder: Path,
        clock: Callable[[], float] = time.monotonic,
        signs: Callable[[Path], object] | None = None,
    ) -> None:
        self._folder = folder
        self._signs = signs or signs_of_progress
        self._clock = clock
        self._seen: object = None
        self._since = self._looked_at = clock()

    def seconds(self) -> float:
        now = self._clock()
        if now - self._looked_at >= 1.0 or self._seen is None:
            self._looked_at = now
            seen = self._signs(self._folder)
            if seen != self._seen:
                self._seen, self._since = seen, now
        return now - self._since


def signs_of_progress(run: Path) -> dict[str, tuple[int, int]]:
    """Size and time of what a run that gets on writes; a heartbeat is none, it beats anyway."""
    marks = read_marks(run)
    attempt = attempt_folder(run, marks.live or max(marks.endings, default=1))
    folders = [attempt, attempt / "checkpoints", *_children(run / "evaluations")]
    found = {}
    for folder in folders:
        for path in _children(folder):
            with contextlib.suppress(OSError):
                if path.name != "heartbeat":
                    stat = path.stat()
                    found[str(path)] = (stat.st_size, stat.st_mtime_ns)
    return found


def oom_kills() -> int:
    """Processes of this control group that the kernel has killed for memory so far."""
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return 0
    total = 0
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            total += _counter(Path(f"/sys/fs/cgroup{path}/memory.events"))
        elif "memory" in controllers.split(","):
            total += _counter(Path(f"/sys/fs/cgroup/memory{path}/memory.oom_control"))
    return total


def _counter(path: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0


def _at_limit(memory_bytes: int | None) -> bool:
    """Whether the largest process waited for so far came close to what it may use."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return memory_bytes is not None and peak > 0.9 * memory_bytes


def _children(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in os.listdir(folder)]  # noqa: PTH208
    except OSError:
        return []
