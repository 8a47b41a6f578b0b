"""Where the evaluations of a sweep's runs stand, and those that nothing declares any more."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vexp.runs import evaluations
from vexp.runs.build import work_area
from vexp.runs.claim import attempt_folder
from vexp.runs.store import RunFolder, RunStatus, State
from vexp.runs.switch import effective

if TYPE_CHECKING:
    from vexp.sweeps.points import Training

NEW: State = "new"


@dataclass(frozen=True)
class Unit:
    """One evaluation of one run's checkpoint."""

    state: State = NEW
    failure: Mapping[str, Any] | None = None  # of a failed one
    log: Path | None = None  # its traceback


_DONE = Unit("done")


@dataclass(frozen=True)
class Units:
    """All evaluations of one run."""

    declared: Mapping[str, Unit] = field(default_factory=dict)  # by the evaluator's name
    others: int = 0  # finished ones that the sweep does not declare


def look(training: Training, status: RunStatus | None) -> Units:
    """The evaluations of a run whose folder is `status`; they begin when its training is done."""
    if status is None or status.state != "done":
        return Units(dict.fromkeys(training.run.evaluator, Unit()))
    run = RunFolder(status.folder)
    result = run.result(status.attempts)
    if result is None:
        return Units(dict.fromkeys(training.run.evaluator, Unit()))
    names = _names(f"{run.folder}/evaluations")
    finished = [name for name in names if name[0] != "."]
    found, own = {}, set()
    actual = effective(training.run, run) if status.switched else training.run
    for unit in evaluations.units(actual, result["checkpoint_hash"]):
        ending = f"-{unit.key}"
        done = [name for name in finished if name.endswith(ending)]
        own.update(done)
        if done:
            found[unit.label] = _DONE
        else:
            area = work_area(run.evaluations_dir / unit.folder_name)
            found[unit.label] = _unfinished(area) if area.name in names else Unit()
    return Units(found, len(finished) - len(own))


def finished_of(runs: Iterable[Path]) -> int:
    """How many finished evaluations these run folders hold."""
    return sum(name[0] != "." for run in runs for name in _names(run / "evaluations"))


def _unfinished(area: Path) -> Unit:
    try:
        status = RunFolder(area).status()
    except FileNotFoundError:  # it has become a finished one between two looks
        return Unit()
    state: State = "running" if status.state == "done" else status.state
    if state != "failed":
        return Unit(state)
    log = attempt_folder(area, status.attempts) / "log.txt"
    return Unit(state, status.failure or {}, log)


def _names(home: Path | str) -> list[str]:
    try:
        return os.listdir(home)  # noqa: PTH208  (ten thousand runs: names are enough)
    except FileNotFoundError:
        return []
