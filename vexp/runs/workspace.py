"""One attempt's workspace: what training writes while it owns a run, and what it takes over.

    attempts/0001/   config.json, provenance.json, metrics.jsonl, timings.jsonl, progress.json,
                     heartbeat, log.txt, checkpoints/, stages.json, result.json or failure.json

Metrics hold no times, so that a resumed run's file equals an uninterrupted one's to the byte.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from vexp import masking
from vexp.files import append_line, fsync_folder, storage_errors, write_json, write_text
from vexp.runs import provenance
from vexp.runs.build_once import build_once
from vexp.runs.claim import Claim, attempt_folder, fsync_file
from vexp.runs.heartbeat import DEFAULT, Timing
from vexp.runs.stop import StopRequest
from vexp.runs.store import RunFolder
from vexp.train.workspace import BuildStage, Value

METRICS, TIMINGS, PROGRESS, LOG = "metrics.jsonl", "timings.jsonl", "progress.json", "log.txt"
CONFIG, STAGES, CHECKPOINTS = "config.json", "stages.json", "checkpoints"
_PROGRESS_EVERY_S = 1.0
_WAITING_EVERY_S = 5.0


class Reporter(Protocol):
    """Who shows a run's progress to the user."""

    def progress(
        self, stage: str, step: int, total: int | None, metrics: Mapping[str, Value]
    ) -> None:
        """Step `step` of `total` (None: nobody knows) is done, of a stage or of an evaluation."""

    def note(self, text: str) -> None:
        """A message worth a line of its own."""


class SilentReporter:
    """A reporter that shows nothing."""

    def progress(
        self, stage: str, step: int, total: int | None, metrics: Mapping[str, Value]
    ) -> None:
        pass

    def note(self, text: str) -> None:
        pass


# Asked with each row of metrics: whether a search has the run stop for good after this step.
Judge = Callable[[int, Mapping[str, Value]], bool]


@dataclass
class RunWorkspace:
    """The `Workspace` of `vexp.train.workspace` in a run folder."""

    run: RunFolder
    claim: Claim
    stages_dir: Path
    reporter: Reporter
    stop: StopRequest
    timing: Timing = DEFAULT
    clock: Callable[[], float] = time.monotonic
    judge: Judge | None = None
    pruned: bool = field(default=False, init=False)
    _progress_at: float = field(default=float("-inf"), init=False)
    _waited_at: float = field(default=float("-inf"), init=False)
    _started: str = field(default="", init=False)
    _resumed_from: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._started = now()

    @property
    def folder(self) -> Path:
        """This attempt's folder."""
        return self.claim.attempt_dir

    @property
    def run_id(self) -> str:
        return self.run.name

    @property
    def tracking_dir(self) -> Path:
        return self.run.folder / "tracking"

    @property
    def checkpoint_dirs(self) -> Sequence[Path]:
        former = [n for n in reversed(self.run.attempts()) if n < self.claim.attempt]
        folders = [self.folder, *(attempt_folder(self.run.folder, n) for n in former)]
        return [folder / CHECKPOINTS for folder in folders]

    def build_once(self, stage: str, key: str, build: BuildStage) -> Path:
        target = self.stages_dir / f"{stage}-{key}"
        self._record_stage(target.name)

        def unguarded(work: Path, output: Path, _ensure: Callable[[], None]) -> None:
            started = now()
            build(work, output)
            provenance.record(output, self.run.config, started, diffs=False)

        return build_once(
            target,
            unguarded,
            what=f"the stage {stage}",
            note=self.note,
            stopping=self._stopping_while_waiting,
            timing=self.timing,
        )

    def resumed(self, step: int) -> None:
        self.claim.ensure()
        self._resumed_from = step
        former = [d.parent / METRICS for d in self.checkpoint_dirs[1:]]
        rows = carried_metrics(former, step, self.note)
        write_text(self.folder / METRICS, "".join(rows))

    def log_metrics(self, step: int, row: Mapping[str, Value]) -> None:
        self.claim.ensure()
        append_line(self.folder / METRICS, {"step": step, **row})
        if self.judge is not None and not self.pruned:
            self.pruned = self.judge(step, row)

    def log_timing(self, step: int, row: Mapping[str, Value]) -> None:
        self.claim.ensure()
        append_line(self.folder / TIMINGS, {"step": step, **row})

    def sync(self) -> None:
        for name in (METRICS, TIMINGS):
            if (self.folder / name).exists():
                fsync_file(self.folder / name)
        fsync_folder(self.folder)

    def progress(self, stage: str, step: int, total: int | None, row: Mapping[str, Value]) -> None:
        self.claim.ensure()
        self.reporter.progress(stage, step, total, row)
        if self.clock() - self._progress_at >= _PROGRESS_EVERY_S or step == total:
            self._progress_at = self.clock()
            write_json(
                self.folder / PROGRESS,
                {
                    "stage": stage,
                    "step": step,
                    "total": total,
                    "metrics": dict(row),
                    "resumed_from": self._resumed_from,
                    "started": self._started,
                    "updated": now(),
                },
            )

    def stop_requested(self) -> bool:
        return bool(self.stop) or self.pruned

    def note(self, text: str) -> None:
        self.reporter.note(text)
        self.log(text)

    def log(self, text: str) -> None:
        """Append to log.txt; a log that cannot be written stops nothing."""
        try:
            with (self.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(f"{now()} {masking.mask(text)}\n")
        except OSError:
            return

    def _stopping_while_waiting(self) -> bool:
        """Waiting for another worker's stage is no standstill: who watches this run can see it."""
        if self.clock() - self._waited_at >= _WAITING_EVERY_S:
            self._waited_at = self.clock()
            with contextlib.suppress(OSError):
                os.utime(self.folder / STAGES)
        return self.stop_requested()

    def _record_stage(self, name: str) -> None:
        """Remember which shared stages this run refers to, for `vexp clean`."""
        path = self.folder / STAGES
        listed = json.loads(path.read_text("utf-8")) if path.exists() else []
        if name not in listed:
            write_json(path, [*listed, name])


def now() -> str:
    """This moment in UTC, for people: nothing is ever decided by it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def carried_metrics(former: Sequence[Path], step: int, note: Callable[[str], None]) -> list[str]:
    """Metrics lines 1 to `step` of former attempts, `former` newest first, in order of the steps.

    Equal steps have equal rows, whichever attempt computed them; so a line that is damaged in one
    file is taken from another one that has it. `note` says which lines were passed over.
    """
    found: dict[int, str] = {}
    for path in former:
        if not path.exists():
            continue
        with storage_errors(path):
            lines = path.read_bytes().split(b"\n")
        for number, raw in enumerate(lines, start=1):
            row = _metrics_row(raw)
            if row is not None and row["step"] <= step:
                found.setdefault(row["step"], raw.decode("utf-8") + "\n")
            elif row is None and raw:
                note(f"{path}: line {number} is damaged and passed over")
    missing = [n for n in range(1, step + 1) if n not in found]
    if missing:
        note(f"no metrics are left of {len(missing)} step(s): {_shortened(missing)}")
    return [found[number] for number in sorted(found)]


def _metrics_row(raw: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(raw)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _shortened(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return f"{shown}, …" if len(numbers) > 8 else shown
