"""Holding a sweep back: when its first runs all fail alike, the others would as well."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from vexp import records
from vexp.runs.status import RunStatus
from vexp.sweeps.state import Entry, SweepState

HOLD_AFTER = 3


@dataclass(frozen=True)
class CircuitBreaker:
    """When a sweep is held; written into the queue by each launch, read by each worker."""

    after: int = HOLD_AFTER  # first runs that fail alike; 0: never
    released: bool = False  # `vexp launch --release` was said

    def signature(self, runs: Iterable[tuple[RunStatus | None, int]]) -> str | None:
        """What all runs that have ended so far failed with, if they are enough to hold the rest.

        `runs` are the sweep's runs, each with the number of attempts that a retry has forgiven.
        """
        if self.released or not self.after:
            return None
        found: list[str] = []
        for status, forgiven in runs:
            if status is not None and status.state == "done":
                return None
            if status is not None and status.state == "failed" and status.attempts > forgiven:
                found.append(signature(status.failure or records.FailureRecord()))
        alike = len(set(found)) == 1
        return found[0] if alike and len(found) >= self.after else None


def held(state: SweepState, queue: Iterable[Entry]) -> str | None:
    """The signature that holds a sweep, for its workers; None if they may go on.

    `queue` is what is to be worked on, the trials of a search among it.
    """
    record = state.record()
    if record is None:
        return None
    if record.done:  # at the launch: these runs are not in the queue
        return None
    after = HOLD_AFTER if record.hold_after is None else record.hold_after
    hold = CircuitBreaker(after, bool(record.released))
    return hold.signature((state.status(entry.run), entry.retry_until or 0) for entry in queue)


def signature(failure: records.FailureRecord) -> str:
    """What equal failures have in common: where and what was raised, numbers left out."""
    place = failure.signature or failure.error or "unknown"
    return f"{place}: {_normalised(first_line(failure.message))}"


def first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""


def _normalised(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+|\d+(\.\d+)?(e[+-]?\d+)?", "#", text)
