"""Which process owns something, and whether it is certainly gone."""

from __future__ import annotations

import functools
import math
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Owner:
    """A process, so described that it is never confused with another one of the same number."""

    attempt: int
    host: str
    boot_id: str  # of the running kernel: changes when the host restarts
    pid_space: str  # containers on one host number their processes each on their own
    pid: int
    started: float  # when the process started, in clock ticks since boot (elsewhere: epoch seconds)
    token: str  # random, so that one process may own several things one after the other
    job: str = ""  # in Slurm: the job it runs in, `12` or `12_3`
    machine: str = ""  # the installation: two hosts may have one name; empty: not known
    interval_s: float = 0.0  # between two of its heartbeats; 0: it does not say
    expiry_s: float = 0.0  # after so long without one it counts as gone; 0: it does not say

    @classmethod
    def here(cls, attempt: int, *, interval_s: float = 0.0, expiry_s: float = 0.0) -> Owner:
        """This process, with what it promises about its heartbeat."""
        return cls(
            attempt=attempt,
            host=socket.gethostname(),
            boot_id=_boot_id(),
            pid_space=_pid_space(),
            pid=os.getpid(),
            started=_process(os.getpid()) or 0.0,
            token=secrets.token_hex(8),
            job=slurm_job(),
            machine=_machine(),
            interval_s=interval_s,
            expiry_s=expiry_s,
        )

    @classmethod
    def read(cls, record: Any, attempt: int) -> Owner:
        """From the JSON of a claim; a record that cannot be read belongs to an unknown host."""
        known = {field.name: field.type for field in fields(cls)}
        try:
            given = {key: value for key, value in record.items() if key in known}
            if all(_is_a(value, str(known[key])) for key, value in given.items()):
                return cls(**given)
        except (AttributeError, TypeError):
            pass
        return cls(attempt, "an unknown host", "", "", 0, 0.0, "")

    def to_dict(self) -> Mapping[str, Any]:
        return asdict(self)

    def here_too(self) -> bool:
        """Whether its process number means something to this process."""
        same = (self.host, self.boot_id, self.pid_space)
        return bool(self.boot_id) and same == (socket.gethostname(), _boot_id(), _pid_space())

    def gone(self) -> bool:
        """Certainly dead: same host, and it has restarted since or has no such process any more.

        False for a process elsewhere, of which nothing is known.
        """
        if self._before_restart():
            return True
        if not self.here_too():
            return False
        found = _process(self.pid)
        return found is None or found != self.started

    def _before_restart(self) -> bool:
        """Whether this host has restarted since: no process outlives that."""
        unlike = bool(self.machine and _machine() and self.machine != _machine())
        same_host = self.host == socket.gethostname() and not unlike
        return same_host and bool(self.boot_id and _boot_id()) and self.boot_id != _boot_id()

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}" if self.pid else self.host


def slurm_job() -> str:
    """The Slurm job that this process runs in, as squeue names it; empty outside of one."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


def _is_a(value: Any, kind: str) -> bool:
    """Whether a value of JSON is of a field's type."""
    if kind == "float":
        return type(value) in (int, float) and math.isfinite(value)
    return type(value).__name__ == kind


def _process(pid: int) -> float | None:
    """When a living process started; None if there is none (a zombie has ended, too)."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else float(rest[18])
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self/stat").exists() else _process_by_psutil(pid)


def _process_by_psutil(pid: int) -> float | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


@functools.cache
def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        import psutil

        return f"boot-{psutil.boot_time():.0f}"


@functools.cache
def _machine() -> str:
    try:
        return Path("/etc/machine-id").read_text().strip()
    except OSError:
        return ""


@functools.cache
def _pid_space() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115  (not a path: "pid:[4026531836]")
    except OSError:
        return ""
