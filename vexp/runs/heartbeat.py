"""A counter that moves while its owner lives, and the judgement that it has stopped moving.

No two hosts' clocks are ever compared: the owner only counts, and whoever waits measures with its
own monotonic clock for how long the count has stood still.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vexp.runs.owner import Owner

Verdict = Literal["alive", "dead", "unknown"]


@dataclass(frozen=True)
class Timing:
    """How often an owner gives a sign of life, and after which silence it counts as dead."""

    interval_s: float = 2.0
    expiry_s: float = 60.0
    poll_s: float = 0.25


DEFAULT = Timing()


class Heartbeat:
    """Counts up in a file from a thread of its own until `stop`."""

    def __init__(self, path: Path, interval_s: float) -> None:
        self._path = path
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vexp-heartbeat", daemon=True)
        beat(path, 0)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        count = 0
        while not self._stop.wait(self._interval_s):
            count += 1
            try:
                beat(self._path, count)
            except OSError:
                continue  # a disk that hiccups: the next beat tries again


def beat(path: Path, count: int) -> None:
    """Write the count in place, always as many bytes: it needs no new space on a full disk."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(handle, b"%020d\n" % count, 0)
    finally:
        os.close(handle)  # closing is what makes it visible through NFS


def read_beat(path: Path) -> bytes:
    """The count as it stands; empty when there is none yet."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


class Watch:
    """Judges one owner after the other by looking again and again."""

    def __init__(self, timing: Timing, clock: Callable[[], float] = time.monotonic) -> None:
        self._timing = timing
        self._clock = clock
        self._token: str | None = None
        self._seen = b""
        self._looked_at = 0.0
        self._silent_s = 0.0

    def judge(self, owner: Owner, heartbeat: Path) -> Verdict:
        """`dead` at once for a process of this host that is gone, else after silence; `alive` when
        the count has moved under our eyes; `unknown` until one of them is certain.
        """
        if owner.gone():
            return "dead"
        now, seen = self._clock(), read_beat(heartbeat)
        if owner.token != self._token:
            self._token, self._seen, self._silent_s = owner.token, seen, 0.0
            self._looked_at = now
            return "unknown"
        # A watcher that was itself frozen must not take its own absence for the owner's silence.
        self._silent_s += min(now - self._looked_at, 4 * self._timing.poll_s)
        self._looked_at = now
        if seen != self._seen:
            self._seen, self._silent_s = seen, 0.0
            return "alive"
        return "dead" if self._silent_s >= self._timing.expiry_s else "unknown"
