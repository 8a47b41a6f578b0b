"""How a trial stands, read from the folders of its runs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vexp.errors import RunError
from vexp.runs import evaluations
from vexp.runs.claim import attempt_folder
from vexp.runs.engine_switch import effective
from vexp.runs.status import RunStatus, status_of
from vexp.runs.store import RunFolder
from vexp.runs.workspace import METRICS
from vexp.search.base import Pruner
from vexp.spec.identity import evaluation_key
from vexp.sweeps.search.study import Study
from vexp.sweeps.search.trials import Trial, TrialRun

TrialState = Literal["live", "complete", "pruned", "failed"]


@dataclass(frozen=True)
class TrialOutcome:
    """Where a trial stands; `values` has the mean over seeds of each objective once complete."""

    state: TrialState
    values: tuple[float, ...] | None = None
    curve: Mapping[int, float] = ()  # type: ignore[assignment]  # step -> the pruner's metric
    reason: str = ""  # why a trial failed although its runs did not


def outcome(study: Study, trial: Trial) -> TrialOutcome:
    """The trial's state now; only one that has ended has its curve."""
    if trial.problem:
        return TrialOutcome("failed", curve={}, reason=trial.problem)
    folders = [study.state.results_dir / "runs" / run.run for run in trial.runs]
    found = [status_of(folder) for folder in folders]
    curve = _curve(study.search.pruner, found[0])
    if any(status and status.state == "pruned" for status in found):
        return TrialOutcome("pruned", curve=curve)
    if any(status and status.state == "failed" for status in found):
        return TrialOutcome("failed", curve=curve)
    lost = [
        status.problem.what for status in found if status and status.problem if not status.mends
    ]
    if lost:
        return TrialOutcome("failed", curve=curve, reason=lost[0])
    if not all(status and status.state == "done" for status in found):
        return TrialOutcome("live", curve={})
    scores = [
        _scores(study, trial, run, status)
        for run, status in zip(trial.runs, found, strict=True)
        if status
    ]
    if any(each is None for each in scores):
        return TrialOutcome("live", curve={})
    lacking = [value for each in scores for value in each or () if isinstance(value, str)]
    if lacking:
        return TrialOutcome("failed", curve=curve, reason=lacking[0])
    columns = zip(*[[v for v in each or () if type(v) is float] for each in scores], strict=True)
    means = tuple(math.fsum(column) / len(column) for column in columns)
    return TrialOutcome("complete", means, curve)


def _scores(
    study: Study, trial: Trial, run: TrialRun, status: RunStatus
) -> list[float | str] | None:
    """The run's value of each objective, or a text that says why there is none.

    None altogether if an evaluation is still missing.
    """
    here = RunFolder(status.folder)
    if status.result is None:
        return None
    content = status.result.checkpoint_hash
    keys = [
        evaluation_key(content, unit["name"], unit["protocol"], unit["version"])
        for unit in run.scored
    ]
    if status.switched:
        keys = _switched_keys(study, trial, here, content)
    values: list[float | str] = []
    for objective, key in zip(study.search.objectives, keys, strict=True):
        path = evaluations.find(here.evaluations_dir, key)
        if path is None:
            return None
        seed = "" if run.seed is None else f" of seed {run.seed}"
        values.append(_value(path, objective.metric, f"{objective.evaluator} {{}}{seed}"))
    return values


def _value(evaluation: Path, metric: str, shown: str) -> float | str:
    """A metric of a finished evaluation, or why it is none; `shown` has a place for its name."""
    try:
        entry = evaluations.read_results(evaluation).metrics.get(metric)
    except RunError as error:
        return f"{shown.format(metric)} cannot be read: {error.problem.what}"
    return f"{shown.format(metric)} was not measured" if entry is None else entry.value


def _switched_keys(study: Study, trial: Trial, folder: RunFolder, content: str) -> list[str]:
    """Keys of the objectives' evaluations of a run that went on with another engine, as they do."""
    points = study.points([(trial.number, dict(trial.params))])
    declared = next(point.run for point in points if point.identity.hash == folder.hash)
    units = evaluations.units(effective(declared, folder), content)
    keys = {unit.label: unit.key for unit in units}
    return [keys[objective.evaluator] for objective in study.search.objectives]


def _curve(pruner: Pruner | None, status: RunStatus | None) -> dict[int, float]:
    """What the pruner's metric was at the steps that are reported."""
    if pruner is None or status is None or not status.attempts:
        return {}
    attempt = RunFolder(status.folder).published() or status.attempts
    found = {}
    for row in _rows(attempt_folder(status.folder, attempt) / METRICS):
        if isinstance(row.get("step"), int) and row["step"] % pruner.every == 0:
            value = row.get(pruner.metric)
            if isinstance(value, int | float) and math.isfinite(value):
                found[row["step"]] = float(value)
    return found


def _rows(path: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl; a line that is torn or being written is passed over."""
    rows = []
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows
