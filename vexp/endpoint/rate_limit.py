"""How fast an endpoint may be asked, by all threads together."""

from __future__ import annotations

import threading
import time

from vexp.errors import Interrupted


class Pace:
    """Spaces requests evenly, and holds them all back when the endpoint asks for it."""

    def __init__(self, per_minute: float | None, stop: threading.Event) -> None:
        self._interval = 60.0 / per_minute if per_minute else 0.0
        self._stop = stop
        self._lock = threading.Lock()
        self._next = float("-inf")

    def wait(self) -> None:
        """Return when it is this caller's turn.

        Raises:
            Interrupted: if everything is to stop.
        """
        with self._lock:
            turn = max(time.monotonic(), self._next)
            self._next = turn + self._interval
        self.pause(turn - time.monotonic())

    def hold(self, seconds: float) -> None:
        """Nobody asks before this time is over."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)

    def pause(self, seconds: float) -> None:
        """Wait this long.

        Raises:
            Interrupted: if everything is to stop.
        """
        if self._stop.wait(max(0.0, seconds)):
            raise Interrupted("stopped")
