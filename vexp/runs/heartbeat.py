"""A counter that moves while its owner lives, and the judgement that it has stopped moving.

No two hosts' clocks are ever compared: the owner only counts, and whoever waits measures with its
own monotonic clock for how long the count has stood still.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vexp.runs.process_id import Owner

Verdict = Literal["alive", "dead", "unknown"]


@dataclass(frozen=True)
class Timing:
    """How often an owner gives a sign of life, and after which silence it counts as dead.

    An owner says both in its claim, and is judged by that; one that does not, by the watcher's.
    """

    interval_s: float = 2.0
    expiry_s: float = 60.0
    poll_s: float = 0.25


DEFAULT = Timing()
BEATS = 3  # heartbeats; whoever waits for one that is dead goes on so long after it is known


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


def age_s(*signs: Path) -> float | None:
    """Seconds since the first of `signs` that exists was written; negative: ahead of our clock.

    By two clocks, so a hint that it is worth watching, and never a reason to take over.
    """
    for sign in signs:
        with contextlib.suppress(OSError):
            return time.time() - sign.stat().st_mtime
    return None


def looks_silent(age: float | None) -> bool:
    """Whether an owner whose heartbeat has such an age is worth watching.

    One from the future says nothing of when it was written: that owner is, too.
    """
    return age is not None and abs(age) > DEFAULT.expiry_s


def silence(age: float | None) -> str:
    """Such an age in words."""
    if age is None:
        return "without a heartbeat"
    if age < 0:
        return f"with a heartbeat {duration(-age)} ahead of this machine's clock"
    return f"silent for {duration(age)}"


def duration(seconds: float) -> str:
    """`42s`, `3m10s`, `2h05m`, `3d04h`."""
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded}s"
    if rounded < 3600:
        return f"{rounded // 60}m{rounded % 60:02d}s"
    if rounded < 86400:
        return f"{rounded // 3600}h{rounded % 3600 // 60:02d}m"
    return f"{rounded // 86400}d{rounded % 86400 // 3600:02d}h"


class Watch:
    """Judges one owner after the other by looking again and again."""

    def __init__(self, timing: Timing, clock: Callable[[], float] = time.monotonic) -> None:
        self._timing = timing
        self._clock = clock
        self._token: str | None = None
        self._seen = b""
        self._looked_at = 0.0
        self._silent_s = 0.0

    @property
    def silent_s(self) -> float:
        """For how long the count has stood still under our eyes."""
        return self._silent_s

    def judge(self, owner: Owner, heartbeat: Path) -> Verdict:
        """`dead` at once for a process of this host that is gone, else after silence; `alive` when
        the count has moved under our eyes; `unknown` until one of them is certain.

        One that this host's restart ended gets three heartbeats: copies of a machine share a name.
        """
        if owner.here_too() and owner.gone():
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
        return "dead" if self._silent_s >= self._allowed_s(owner) else "unknown"

    def _allowed_s(self, owner: Owner) -> float:
        """The silence that an owner is granted."""
        if owner.gone():
            return BEATS * (owner.interval_s or self._timing.interval_s)
        return owner.expiry_s or self._timing.expiry_s
