"""Where runs stand, as their files tell. A run that cannot be read is one that says so."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vexp import records
from vexp.errors import Damaged, Problem
from vexp.files import names_in, read
from vexp.runs.claim import DONE, attempt_folder, attempt_name, live_file, marks_of, read_owner
from vexp.runs.heartbeat import age_s
from vexp.runs.process_id import Owner
from vexp.runs.record import RECORD, read_head, read_record

RESULT = "result.json"
SWITCHES = "switches.json"
State = Literal["new", "running", "stopped", "failed", "pruned", "done", "damaged"]
AGAIN = (
    "`vexp launch`, or `vexp run` with the same settings, ends it again from its last checkpoint"
)
LOST = (
    "no checkpoint of it is left: move the folder away and run it again, or bring it back by "
    "`vexp import`"
)
_CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class RunStatus:
    """Where a run stands, as its files tell."""

    folder: Path
    state: State
    attempts: int = 0  # started so far
    owner: Owner | None = None  # of a running run
    silent_s: float | None = None  # since the owner's last heartbeat; by clocks, so a hint only
    progress: records.ProgressRecord | None = None  # of a running run
    failure: records.FailureRecord | None = None  # of a failed run
    switched: bool = False  # it went on with another engine than it was declared with
    result: records.Result | None = None  # of a done run
    problem: Problem | None = None  # of a damaged run
    mends: bool = False  # of a damaged run: its next attempt ends it again

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def hash(self) -> str:
        return self.name.rpartition("-")[2]


def status_of(folder: Path) -> RunStatus | None:
    """Where the run in a folder stands; None if there is no such folder."""
    try:
        names = os.listdir(folder)  # noqa: PTH208  (ten thousand folders: names are enough)
    except FileNotFoundError:
        return None
    except OSError:
        return _listed(folder)
    return status_by(folder, names)


def status_by(folder: Path, names: Collection[str]) -> RunStatus:
    """Where the run stands in whose folder these names are."""
    try:
        if RECORD not in names:
            raise Damaged(f"{RECORD} is missing", where=str(folder), remedy=records.Run.remedy)
        read_head(folder)
        if SWITCHES in names:
            read(folder / SWITCHES, records.Switches)
        found = standing(folder, names)
        if found.state == "new" and "attempts" in names:
            _refuse_half(folder)
        return _finished(found) if found.state == "done" else found
    except Damaged as error:
        return RunStatus(folder, "damaged", problem=error.problem)


def standing(folder: Path, names: Collection[str]) -> RunStatus:
    """Where claims and attempts stand in a folder; that of a run, or in which one is built.

    Raises:
        Damaged: if they cannot be read.
    """
    marks = marks_of(names)
    switched, before = SWITCHES in names, marks.next - 1
    if marks.done:
        return RunStatus(folder, "done", marks.next, switched=switched)
    if marks.live is not None:
        return _claimed(folder, marks.live, before, switched)
    if not marks.endings:
        return RunStatus(folder, "new", switched=switched)
    last = max(marks.endings)
    if marks.endings[last] == "failed":
        failure = _failure(attempt_folder(folder, last))
        return RunStatus(folder, "failed", before, failure=failure, switched=switched)
    state: State = "pruned" if marks.endings[last] == "pruned" else "stopped"
    return RunStatus(folder, state, before, switched=switched)


def published(folder: Path) -> int | None:
    """Number of the attempt that was published, if one was.

    Raises:
        Damaged: if done.json is.
    """
    found = read(f"{folder}/{DONE}", records.Done)
    return None if found is None else found.attempt


def result_of(folder: Path) -> records.Result | None:
    """What the published attempt ended with; None if there is none.

    Raises:
        Damaged: if done.json or that attempt's result.json is.
    """
    attempt = published(folder)
    return None if attempt is None else _result(folder, attempt)


def ends_again(folder: Path) -> bool:
    """Whether a finished run can be ended again by one more attempt, without training anew.

    Raises:
        Damaged: if its folder cannot be read.
    """
    record = read_record(folder)
    if record.imported:
        return False
    attempts = names_in(folder / "attempts")
    saved = (name for n in attempts for name in names_in(folder / "attempts" / n / _CHECKPOINTS))
    return "rl" not in record.config.get("stages", ("rl",)) or any(n[:5] == "step-" for n in saved)


def _refuse_half(folder: Path) -> None:
    """Raises:
    Damaged: if there are attempts and nothing says whose: a claim comes before its attempt.
    """
    names = names_in(folder)  # again: a claim that was renamed while they were listed is missed
    if standing(folder, names).state == "new" and "attempts" in names:
        raise Damaged(
            f"there are attempts, and neither a claim nor {DONE}: the folder was copied in part",
            where=str(folder),
            remedy="copy it again from where it was made, or move it away and run it again",
        )


def _finished(status: RunStatus) -> RunStatus:
    """The status of a done run with what it ended in."""
    folder = status.folder
    try:
        attempt = published(folder)
        if attempt is None:
            raise Damaged(f"{DONE} is missing", where=str(folder), remedy=records.Done.remedy)
        found = _result(folder, attempt)
    except Damaged as error:
        return _broken(status, error)
    return RunStatus(folder, "done", attempt, switched=status.switched, result=found)


def _broken(status: RunStatus, error: Damaged) -> RunStatus:
    folder, problem = status.folder, error.problem
    mends = error.content and ends_again(folder)
    if mends:
        problem.remedy = AGAIN
    elif error.content:
        problem.remedy = LOST
    return RunStatus(folder, "damaged", status.attempts, problem=problem, mends=mends)


def _result(folder: Path, attempt: int) -> records.Result:
    found = read(f"{folder}/{attempt_name(attempt)}/{RESULT}", records.Result)
    if found is None:
        raise Damaged(
            f"{DONE} names attempt {attempt}, which has no {RESULT}",
            where=str(folder),
            remedy=records.Result.remedy,
        )
    return found


def _claimed(folder: Path, attempt: int, before: int, switched: bool) -> RunStatus:
    owner = read_owner(folder, attempt)
    if owner is None:  # it has ended between two looks
        return standing(folder, names_in(folder))
    if owner.gone():
        return RunStatus(folder, "stopped", before, switched=switched)
    place = attempt_folder(folder, attempt)
    return RunStatus(
        folder,
        "running",
        before,
        owner,
        age_s(place / "heartbeat", live_file(folder, attempt)),
        progress=_progress(place),
        switched=switched,
    )


def _failure(attempt: Path) -> records.FailureRecord | None:
    try:
        return read(attempt / "failure.json", records.FailureRecord)
    except Damaged as error:
        return records.FailureRecord(message=str(error.problem.what))


def _progress(attempt: Path) -> records.ProgressRecord | None:
    try:
        return read(attempt / "progress.json", records.ProgressRecord)
    except Damaged:  # whoever shows how far it is says so
        return None


def _listed(folder: Path) -> RunStatus:
    """The status of a folder whose names cannot be read."""
    try:
        return status_by(folder, names_in(folder))
    except Damaged as error:
        return RunStatus(folder, "damaged", problem=error.problem)
