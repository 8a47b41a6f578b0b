"""How far each run of a sweep is, and what its failures have in common."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from vexp.files import read_json
from vexp.runs import evaluations
from vexp.runs.claim import attempt_folder
from vexp.runs.failure import RECORD
from vexp.runs.heartbeat import silence
from vexp.runs.store import RunFolder, RunStatus
from vexp.runs.switch import effective, mixed
from vexp.runs.workspace import LOG, METRICS, PROGRESS, TIMINGS
from vexp.sweeps.hold import first_line, signature
from vexp.sweeps.plan import Plan, Planned
from vexp.sweeps.policy import SURVIVABLE
from vexp.sweeps.worker import is_silent

_TAIL = 8192  # bytes read from the end of a growing file
_RECENT = 5  # steps whose mean time is taken for the pace
_ATTENTION = ("running", "failed", "stopped", "new", "pruned", "done")
_TRACEBACK = 12  # lines shown of a failure


@dataclass(frozen=True)
class Progress:
    """How far one run is."""

    run: Planned
    stage: str = ""
    step: int | None = None
    total: int | None = None
    metrics: Mapping[str, float] = ()  # type: ignore[assignment]
    left_s: float | None = None  # of the present stage
    exit_code: int | None = None  # of the last process that a worker gave to it
    log: Path | None = None  # of that worker

    @property
    def accuracy(self) -> float | None:
        """Of a finished run, what its first evaluation with an accuracy found, as the table has it.

        Of any other run, the one that the stage it is in reports.
        """
        return _evaluated(self.run) if self.run.state == "done" else self.metrics.get("accuracy")

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
        return mixed(status.folder) if status and status.switched else ""

    def _remark(self) -> str:
        status = self.run.status
        if self.run.state == "failed" and status and status.failure:
            return first_line(str(status.failure.get("message", "")))
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
        missing = [name for name, unit in units.items() if unit.state not in ("done", "failed")]
        told = [f"evaluation failed: {', '.join(failed)}"] if failed else []
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


def progress(plan: Plan, runs: Iterable[Planned] | None = None) -> list[Progress]:
    """How far these runs are (default: all that are declared, in that order)."""
    ends, workers = plan.state.ends(), plan.state.workers
    chosen = plan.runs if runs is None else runs
    return [_progress(run, ends.get(run.name, {}), workers) for run in chosen]


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
    failure: Mapping[str, Any]
    log: Path


def _failed(runs: Iterable[Planned]) -> Iterator[_Failed]:
    for run in runs:
        if run.state == "failed" and run.status:
            log = attempt_folder(run.status.folder, run.status.attempts) / LOG
            yield _Failed(run.training.label, run.status.failure or {}, log)
        for name, unit in run.units.declared.items():
            if unit.failure is not None and unit.log is not None:
                yield _Failed(f"evaluation {name} of {run.training.label}", unit.failure, unit.log)


def _progress(run: Planned, end: Mapping[str, Any], workers: Path) -> Progress:
    if run.status is None or not run.status.attempts:
        return Progress(run, metrics={})
    attempt = attempt_folder(run.status.folder, run.status.attempts)
    at = run.status.progress or read_json(attempt / PROGRESS) or {}
    step, total = at.get("step"), at.get("total")
    rows = _last_rows(attempt / METRICS, 1)
    return Progress(
        run=run,
        stage=at.get("stage", ""),
        step=step,
        total=total,
        metrics=(rows[0] if rows else {}) | dict(at.get("metrics", {})),
        left_s=_left(attempt, at) if run.state == "running" else None,
        exit_code=end.get("exit_code"),
        log=workers / f"{end['worker']}.log" if "worker" in end else None,
    )


def _lost(status: RunStatus | None) -> str:
    if status is None or not status.attempts:
        return ""
    record = read_json(attempt_folder(status.folder, status.attempts) / RECORD)
    if not isinstance(record, dict) or record.get("kind") not in SURVIVABLE:
        return ""
    return first_line(str(record.get("message", "")))


def _evaluated(run: Planned) -> float | None:
    folder = RunFolder(run.status.folder) if run.status else None
    result = folder.result() if folder else None
    if folder is None or result is None:
        return None
    for unit in evaluations.units(effective(run.training.run, folder), result["checkpoint_hash"]):
        found = evaluations.find(folder.evaluations_dir, unit.key)
        content = read_json(found / evaluations.RESULTS) if found else None
        entry = ((content or {}).get("metrics") or {}).get("accuracy")
        if entry is not None:
            return float(entry["value"])
    return None


def _left(attempt: Path, at: Mapping[str, Any]) -> float | None:
    """Seconds that the present stage still takes, at the pace of its last steps.

    A supervised stage leaves no timings; the pace of the first one is that of the attempt.
    """
    if not at.get("step") or at.get("total") is None:
        return None
    rows = _last_rows(attempt / TIMINGS, _RECENT) if at.get("stage") == "rl" else []
    seconds = [row["total_s"] for row in rows if "total_s" in row]
    if at.get("stage") == "warm_start":
        so_far = datetime.fromisoformat(at["updated"]) - datetime.fromisoformat(at["started"])
        seconds = [so_far.total_seconds() / at["step"]]
    if not seconds:
        return None
    return float((at["total"] - at["step"]) * sum(seconds) / len(seconds))


def _group(key: str, group: Sequence[_Failed]) -> Failures:
    first = group[0]
    return Failures(
        signature=key,
        kind=str(first.failure.get("kind", "unknown")),
        message=str(first.failure.get("message", "")),
        runs=tuple(failed.label for failed in group),
        traceback=tuple(_last_lines(first.log, _TRACEBACK)),
        log=first.log,
    )


def _last_rows(path: Path, count: int) -> list[dict[str, Any]]:
    """The last whole JSON rows of a file that may still grow."""
    rows = []
    for line in _last_lines(path, count + 1):
        try:
            row = json.loads(line)
        except ValueError:  # torn: still being written
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows[-count:]


def _last_lines(path: Path, count: int) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        return []
