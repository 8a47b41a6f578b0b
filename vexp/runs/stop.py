"""Signals as a request: the first one saves and stops, a second Ctrl-C stops at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from vexp.errors import Interrupted

_SAID = (
    b"\nstopping before this step's updates or after them; everything is saved (Ctrl-C again stops "
    b"at once)\n"
)


class StopRequest:
    """While it is entered, signals set `signal` instead of ending the process.

    SIGUSR2 is what Slurm sends ahead of a time limit or a preemption.

    An `Interrupted` that leaves the block gets the exit code of the signal. Outside the main
    thread, where Python allows no handlers, no signal is ever seen.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
                self._former[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)
        self._former.clear()
        if isinstance(error, Interrupted):
            error.exit_code = self.exit_code

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that ended by this signal: 130 after Ctrl-C."""
        return 128 + (self.signal or signal.SIGINT)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        first, self.signal = self.signal is None, number  # first of all: the next may come now
        if first:
            os.write(2, _SAID)  # not print: the signal may have come in the middle of one
