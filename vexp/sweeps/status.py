"""How far each run of a sweep is, and what its failures have in common."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from vexp import records
from vexp.errors import Damaged, Problem
from vexp.files import read
from vexp.runs.claim import attempt_folder
from vexp.runs.engine_switch import mixed
from vexp.runs.failure import recorded
from vexp.runs.heartbeat import silence
from vexp.runs.status import RunStatus
from vexp.runs.workspace import LOG, METRICS, PROGRESS, TIMINGS
from vexp.sweeps.circuit_breaker import first_line, signature
from vexp.sweeps.plan import Plan, Planned
from vexp.sweeps.retry_policy import SURVIVABLE
from vexp.sweeps.worker import is_silent

_TAIL = 8192  # bytes read from the end of a growing file
_RECENT = 5  # steps whose mean time is taken for the pace
_ATTENTION = ("running", "damaged", "failed", "stopped", "new", "pruned", "done")
_TRACEBACK = 12  # lines shown of a failure


@dataclass(frozen=True)
class SweepProgress:
    """How far one run is."""

    run: Planned
    stage: str = ""
    step: int | None = None
    total: int | None = None
    metrics: Mapping[str, float] = ()  # type: ignore[assignment]
    left_s: float | None = None  # of the present stage
    exit_code: int | None = None  # of the last process that a worker gave to it
    log: Path | None = None  # of that worker
    unread: Problem | None = None  # of its progress.json

    @property
    def accuracy(self) -> float | None:
        """Of a finished run, what its first evaluation with an accuracy found, as the table has it.

        Of any other run, the one that the stage it is in reports.
        """
        if self.run.state != "done":
            return self.metrics.get("accuracy")
        units = self.run.units.declared.values()
        return next((unit.accuracy for unit in units if unit.accuracy is not None), None)

    @property
    def remark(self) -> str:
        """What a user would want to know beyond the state."""
        return "; ".join(filter(None, (self._remark(), self.mixed)))

    @property
    def lost(self) -> str:
        """Why a run that is stopped was lost; empty for one that was stopped on request."""
        return _lost(self.run.status) if self.run.state == "stopped" else ""

    @property
    def mixed(self) -> str:
        """Which engines the run went on with, where it was switched."""
        status = self.run.status
        readable = status is not None and status.switched and self.run.state != "damaged"
        return mixed(status.folder) if status and readable else ""

    def _remark(self) -> str:
        status = self.run.status
        if self.run.state == "failed" and status and status.failure:
            return first_line(status.failure.message)
        if status and status.problem:
            return str(status.problem.what)
        if self.run.state == "running" and status and is_silent(status):
            return f"{silence(status.silent_s)}; the next launch takes it over"
        if self.run.state == "done":
            return self._evaluation_remark()
        if self.run.state == "stopped":
            code = self.exit_code or 0
            killed = f" (killed by {signal.Signals(-code).name})" if code < 0 else ""
            return f"goes on at the next launch{killed}"
        return ""

    def _evaluation_remark(self) -> str:
        units = self.run.units.declared
        failed = [name for name, unit in units.items() if unit.state == "failed"]
        damaged = [name for name, unit in units.items() if unit.state == "damaged"]
        over = ("done", "failed", "damaged")
        missing = [name for name, unit in units.items() if unit.state not in over]
        told = [f"evaluation failed: {', '.join(failed)}"] if failed else []
        told += [f"evaluation damaged: {', '.join(damaged)}"] if damaged else []
        told += [f"not evaluated yet: {', '.join(missing)}"] if missing else []
        if missing and not failed and self.exit_code is not None and self.exit_code > 0:
            told.append(f"the last try ended with exit code {self.exit_code}, see {self.log}")
        return "; ".join(told)


@dataclass(frozen=True)
class Failures:
    """Runs that failed in the same way."""

    signature: str
    kind: str
    message: str  # of the first of them
    runs: tuple[str, ...]  # labels
    traceback: tuple[str, ...]  # last lines of the first one's log
    log: Path


def progress(plan: Plan, runs: Iterable[Planned] | None = None) -> list[SweepProgress]:
    """How far these runs are (default: all that are declared, in that order)."""
    ends, workers = plan.state.ends(), plan.state.workers
    chosen = plan.runs if runs is None else runs
    return [_progress(run, ends.get(run.name), workers) for run in chosen]


def foremost(runs: Sequence[Planned], limit: int | None) -> Sequence[Planned]:
    """At most `limit` runs, those first that are at work or need attention; None: all of them."""
    if limit is None or len(runs) <= limit:
        return runs
    order = {state: rank for rank, state in enumerate(_ATTENTION)}
    first = (order[run.state] + (0 if run.complete else -0.5) for run in runs)
    ranked = sorted(zip(first, range(len(runs)), strict=True))
    return [runs[index] for _, index in ranked[: max(1, limit)]]


def failures(runs: Iterable[Planned]) -> list[Failures]:
    """Failed runs and failed evaluations by signature, the most frequent first."""
    groups: dict[str, list[_Failed]] = {}
    for failed in _failed(runs):
        groups.setdefault(signature(failed.failure), []).append(failed)
    return sorted((_group(key, group) for key, group in groups.items()), key=lambda g: -len(g.runs))


@dataclass(frozen=True)
class _Failed:
    label: str
    failure: records.FailureRecord
    log: Path


def _failed(runs: Iterable[Planned]) -> Iterator[_Failed]:
    for run in runs:
        if run.state == "failed" and run.status:
            log = attempt_folder(run.status.folder, run.status.attempts) / LOG
            yield _Failed(run.training.label, run.status.failure or records.FailureRecord(), log)
        for name, unit in run.units.declared.items():
            if unit.failure is not None and unit.log is not None:
                yield _Failed(f"evaluation {name} of {run.training.label}", unit.failure, unit.log)


def _progress(run: Planned, end: records.Event | None, workers: Path) -> SweepProgress:
    if run.status is None or not run.status.attempts:
        return SweepProgress(run, metrics={})
    attempt = attempt_folder(run.status.folder, run.status.attempts)
    at, unread = run.status.progress, None
    try:
        at = at or read(attempt / PROGRESS, records.ProgressRecord) or records.ProgressRecord()
    except Damaged as error:
        at, unread = records.ProgressRecord(), error.problem
    rows = _last_rows(attempt / METRICS, 1)
    return SweepProgress(
        run=run,
        stage=at.stage,
        step=at.step,
        total=at.total,
        metrics=(rows[0] if rows else {}) | at.metrics,
        left_s=_left(attempt, at) if run.state == "running" else None,
        exit_code=end.exit_code if end else None,
        log=workers / f"{end.worker}.log" if end and end.worker else None,
        unread=unread,
    )


def _lost(status: RunStatus | None) -> str:
    if status is None or not status.attempts:
        return ""
    record = recorded(attempt_folder(status.folder, status.attempts))
    if record is None or record.kind not in SURVIVABLE:
        return ""
    return first_line(record.message)


def _left(attempt: Path, at: records.ProgressRecord) -> float | None:
    """Seconds that the present stage still takes, at the pace of its last steps.

    A supervised stage leaves no timings; the pace of the first one is that of the attempt.
    """
    if not at.step or at.total is None:
        return None
    rows = _last_rows(attempt / TIMINGS, _RECENT) if at.stage == "rl" else []
    seconds = [row["total_s"] for row in rows if "total_s" in row]
    if at.stage == "warm_start":
        seconds = _pace(at, at.step)
    if not seconds:
        return None
    return (at.total - at.step) * sum(seconds) / len(seconds)


def _pace(at: records.ProgressRecord, steps: int) -> list[float]:
    try:
        so_far = datetime.fromisoformat(at.updated) - datetime.fromisoformat(at.started)
    except (TypeError, ValueError):  # times only inform
        return []
    return [so_far.total_seconds() / steps]


def _group(key: str, group: Sequence[_Failed]) -> Failures:
    first = group[0]
    return Failures(
        signature=key,
        kind=first.failure.kind,
        message=first.failure.message,
        runs=tuple(failed.label for failed in group),
        traceback=tuple(_last_lines(first.log, _TRACEBACK)),
        log=first.log,
    )


def _last_rows(path: Path, count: int) -> list[dict[str, float]]:
    """The numbers in the last whole rows of a file that may still grow."""
    rows = []
    for line in _last_lines(path, count + 1):
        try:
            row = msgspec.json.decode(line, type=dict[str, Any])
        except (ValueError, RecursionError):  # torn: still being written
            continue
        rows.append({name: value for name, value in row.items() if type(value) in (int, float)})
    return rows[-count:]


def _last_lines(path: Path, count: int) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        return []
