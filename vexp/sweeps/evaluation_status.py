"""Where the evaluations of a sweep's runs stand, and those that nothing declares any more."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vexp import records
from vexp.errors import Damaged, Problem
from vexp.files import names_in
from vexp.forked import in_parts
from vexp.runs import evaluations
from vexp.runs.build_once import work_area
from vexp.runs.claim import attempt_folder
from vexp.runs.engine_switch import effective
from vexp.runs.status import RunStatus, State, standing
from vexp.runs.store import RunFolder

if TYPE_CHECKING:
    from vexp.sweeps.points import Training

NEW: State = "new"


@dataclass(frozen=True)
class EvaluationStatus:
    """One evaluation of one run's checkpoint."""

    state: State = NEW
    failure: records.FailureRecord | None = None  # of a failed one
    log: Path | None = None  # its traceback
    problem: Problem | None = None  # of a damaged one
    accuracy: float | None = None  # of a done one that has measured it


_DONE = EvaluationStatus("done")


@dataclass(frozen=True)
class Units:
    """All evaluations of one run."""

    declared: Mapping[str, EvaluationStatus] = field(
        default_factory=dict
    )  # by the evaluator's name
    others: int = 0  # finished ones that the sweep does not declare


def look_at(runs: Sequence[tuple[Training, RunStatus | None]]) -> list[Units]:
    """The evaluations of many runs, each with the status of its folder; read by several processes.

    Raises:
        ConfigError: if an evaluator does not take the config of a run.
    """
    return [found for part in in_parts(_looks, runs) for found in part]


def look(training: Training, status: RunStatus | None) -> Units:
    """The evaluations of a run whose folder is `status`; they begin when its training is done."""
    declared = training.run.evaluator
    if status is None or status.result is None:
        return Units(dict.fromkeys(declared, EvaluationStatus()))
    try:
        return _look(training, RunFolder(status.folder), status.switched, status.result)
    except Damaged as error:
        return Units(dict.fromkeys(declared, EvaluationStatus("damaged", problem=error.problem)))


def finished_of(runs: Iterable[Path]) -> int:
    """How many finished evaluations these run folders hold; those that can be looked into."""
    total = 0
    for run in runs:
        with contextlib.suppress(Damaged):
            total += sum(name[0] != "." for name in names_in(run / "evaluations"))
    return total


def _looks(runs: Sequence[tuple[Training, RunStatus | None]]) -> list[Units]:
    return [look(training, status) for training, status in runs]


def _look(training: Training, run: RunFolder, switched: bool, result: records.Result) -> Units:
    home = f"{run.folder}/evaluations"
    names = names_in(home)
    finished = [name for name in names if name[0] != "."]
    found, own = {}, set()
    actual = effective(training.run, run) if switched else training.run
    for unit in evaluations.units(actual, result.checkpoint_hash):
        ending = f"-{unit.key}"
        done = [name for name in finished if name.endswith(ending)]
        own.update(done)
        if done:
            found[unit.label] = _finished(f"{home}/{done[0]}")
        else:
            area = work_area(run.evaluations_dir / unit.folder_name)
            found[unit.label] = _unfinished(area) if area.name in names else EvaluationStatus()
    return Units(found, len(finished) - len(own))


def _finished(folder: str) -> EvaluationStatus:
    try:
        accuracy = evaluations.read_results(folder).metrics.get("accuracy")
    except Damaged as error:
        return EvaluationStatus("damaged", problem=error.problem)
    return _DONE if accuracy is None else EvaluationStatus("done", accuracy=accuracy.value)


def _unfinished(area: Path) -> EvaluationStatus:
    """One that is or was being made; if it has become a finished one since, it is new for now."""
    status = standing(area, names_in(area))
    state: State = "running" if status.state == "done" else status.state
    if state != "failed":
        return EvaluationStatus(state)
    log = attempt_folder(area, status.attempts) / "log.txt"
    return EvaluationStatus(state, status.failure or records.FailureRecord(), log)
