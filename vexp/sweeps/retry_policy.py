"""Which ends of a run it survives by itself: kinds of failure, counted against what is allowed.

The kinds are those of `vexp.runs.failure`; how often each may come is `launcher.retry`. A launch
writes it into the sweep's state folder, where every worker reads it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from vexp import records
from vexp.errors import Damaged
from vexp.files import read, write_json
from vexp.launcher.base import Launcher, Retry
from vexp.runs import failure
from vexp.runs.claim import attempt_folder, read_marks
from vexp.runs.failure import Failure, Kind
from vexp.runs.workspace import now

RECORD = "policy.json"
SURVIVABLE = frozenset(kind.name for kind in dataclasses.fields(Retry))
_REMEDIES: dict[Kind, str] = {
    "timeout": "allow more time or raise `launcher.retry.timeout`; "
    "does a step with its checkpoint fit into the time limit?",
    "infra": "look at its log and its machine, then use `vexp retry`",
    "oom": "lower compute.micro_batch_size (the result stays the same) or ask for more memory",
}


@dataclass(frozen=True)
class RetryPolicy:
    """What workers are told about ends and standstill."""

    retry: Retry = field(default_factory=Retry)
    stuck_after_s: float | None = None

    @classmethod
    def of(cls, launcher: Launcher) -> RetryPolicy:
        minutes = launcher.stuck_after_min
        return cls(launcher.retry, None if minutes is None else 60 * minutes)

    @classmethod
    def read(cls, state: Path) -> RetryPolicy:
        """What the last launch wrote; the defaults without one."""
        try:
            record = read(state / RECORD, records.RetryRecord)
        except Damaged:
            record = None
        if record is None:
            return cls()
        allowed = {kind: count for kind, count in record.retry.items() if kind in SURVIVABLE}
        return cls(Retry(**allowed), record.stuck_after_s)

    def write(self, state: Path) -> None:
        if RetryPolicy.read(state) != self or not (state / RECORD).exists():
            content = {"retry": dataclasses.asdict(self.retry), "stuck_after_s": self.stuck_after_s}
            write_json(state / RECORD, content)

    def allowed(self, kind: Kind) -> int:
        """How many ends of this kind a run may survive."""
        return cast("int", getattr(self.retry, kind, 0))

    def goes_on(self, run: Path, kind: Kind, since: int = 0) -> bool:
        """Whether a run whose last attempt ended by `kind` is to be tried again.

        Attempts up to number `since` are forgiven: `vexp retry` was said after them.
        """
        return ends(run, since).count(kind) <= self.allowed(kind)

    def exhausted(self, kind: Kind, message: str) -> Failure:
        """The record of a run that came to this kind of end once too often."""
        allowed = self.allowed(kind)
        times = f"; this was end number {allowed + 1} of this kind" if allowed else ""
        remedy = f"\n{_REMEDIES[kind]}" if kind in _REMEDIES else ""
        return failure.observed(kind, f"{message}{times}{remedy}", now())


def ends(run: Path, since: int = 0) -> list[Kind]:
    """How the attempts at a run ended, oldest first; one that left no record counts as `infra`."""
    endings = read_marks(run).endings
    return [_kind(run, attempt) for attempt in sorted(endings) if attempt > since]


def _kind(run: Path, attempt: int) -> Kind:
    try:
        record = read(attempt_folder(run, attempt) / failure.RECORD, records.FailureRecord)
    except Damaged:
        record = None
    return "infra" if record is None or record.kind == "unknown" else cast("Kind", record.kind)
