"""Trials on disk: who creates a trial's file owns its number, so there are never too many."""

from __future__ import annotations

import contextlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from vexp.errors import Problem
from vexp.files import fsync_folder, read_json, storage_errors, write_bytes, write_json
from vexp.runs.lock import turn
from vexp.runs.store import RunStore
from vexp.search.base import Search
from vexp.sweeps.search.study import Study

FORMAT = 1
MARKS = "trials"  # folder in a run's folder with copies of the trials that it belongs to

_NAME = re.compile(r"[0-9]{4,8}\.json")
_MOST_LOST = 1000  # trials of which nothing is left, at most, or as many as there shall be


@dataclass(frozen=True)
class TrialRun:
    """One run of a trial."""

    run: str  # name of its folder
    label: str
    seed: int | None
    shares: str | None
    # for each objective: name, protocol and version of its evaluator, which with the checkpoint's
    # content make the key of the evaluation
    scored: tuple[Mapping[str, Any], ...]
    resources: Mapping[str, Any] = field(default_factory=dict)  # asked of the launcher


@dataclass(frozen=True)
class Trial:
    """One proposed setting: content of `trials/<number>.json`."""

    number: int
    params: Mapping[str, Any]
    runs: tuple[TrialRun, ...] = ()
    problem: str = ""  # the config does not take these settings; counts as a failed trial
    attributes: Mapping[str, Any] = field(default_factory=dict)  # what the sampler remembers of it

    def to_dict(self, study: Study) -> dict[str, Any]:
        return {"format": FORMAT, "study": study.name, **asdict(self)}

    @classmethod
    def read(cls, record: Any, number: int, search: Search | None = None) -> Trial | None:
        """Trial `number` from its record; None if that is damaged.

        Of `search`, its settings have to be ones that are proposed.
        """
        try:
            trial = msgspec.convert(record, cls)
        except msgspec.ValidationError:
            return None
        named = all(Path(run.run).name == run.run not in ("", "..") for run in trial.runs)
        if trial.number != number or not named or not (trial.runs or trial.problem):
            return None
        return trial if search is None or _proposed(trial, search) else None


def _proposed(trial: Trial, search: Search) -> bool:
    """Whether the settings of a trial are values of the search's space, all of them."""
    keys = search.distributions()
    if trial.params.keys() != keys.keys():
        return bool(trial.problem) and not trial.params
    return all(keys[key].holds(value) for key, value in trial.params.items())


def read_trials(study: Study) -> list[Trial]:
    """All trials, by number without a gap; from the run folders where their file is lost.

    One that is lost altogether counts as failed: its number is not given away again.
    """
    return _read(study)[0]


def damaged_files(study: Study) -> list[Problem]:
    """What of the study cannot be read; none of it ends a command."""
    found = [
        Problem(
            f"the record of trial {number} is damaged",
            where=str(path),
            accepted=how,
            remedy=remedy,
        )
        for number, path in _read(study)[1].items()
        for how, remedy in [_consequence(study, number)]
    ]
    for path in sorted(study.trials_dir.glob("*.json")):
        if not _NAME.fullmatch(path.name) or int(path.stem) >= _most(study):
            what = "this is no record of a trial, and nobody reads it"
            found.append(Problem(what, where=str(path), remedy="delete it"))
    for path in sorted(study.folder.glob(f"{study.journal.name}.*.aside")):
        what = "this stood in the place of Optuna's journal, which was written anew"
        found.append(Problem(what, where=str(path), remedy="delete it if it is nothing of yours"))
    return found


def create(study: Study, trial: Trial) -> bool:
    """Write the file of a new trial, unless its number is taken; whether this was the first."""
    target = _path(study, trial.number)
    aside = target.parent / f".{uuid.uuid4().hex}.tmp"
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_bytes(aside, json.dumps(trial.to_dict(study), indent=2).encode() + b"\n")
            try:
                os.link(aside, target)
            except FileExistsError:
                return aside.stat().st_nlink == 2  # NFS may repeat a request that had succeeded
            fsync_folder(target.parent)
        finally:
            aside.unlink(missing_ok=True)
    return True


def restore(study: Study) -> None:
    """Write the files that are lost; to be called under the study's lock."""
    trials, damaged = _read(study)
    for trial in trials:
        path = _path(study, trial.number)
        if trial.number in damaged and trial.runs and path.is_file():
            write_json(path, trial.to_dict(study))  # as its copies in the run folders have it
        elif not path.exists():
            create(study, trial)


def mark(study: Study, trial: Trial, folder: Path) -> None:
    """Keep a copy of the trial in the folder of one of its runs."""
    path = folder / MARKS / f"{study.name}-{trial.number:04d}.json"
    if not path.exists():
        write_json(path, trial.to_dict(study))


def is_marked(study: Study, trial: Trial, run: TrialRun) -> bool:
    """Whether the run's folder exists, with its copy of the trial."""
    folder = study.state.results_dir / "runs" / run.run
    return (folder / MARKS / f"{study.name}-{trial.number:04d}.json").exists()


@contextlib.contextmanager
def locked(study: Study, patience_s: float) -> Iterator[bool]:
    """One process at a time, on all machines whose file system shares locks.

    False without it: its holder is frozen, or far slower than it should be, or there are no locks.
    The lock only spares work: numbers are owned by files, and the journal is mended.
    """
    with turn(study.lock, patience_s) as held:
        yield held


def _path(study: Study, number: int) -> Path:
    return study.trials_dir / f"{number:04d}.json"


def _read(study: Study) -> tuple[list[Trial], dict[int, Path]]:
    """All trials, and the files that hold none although they are called so, by number."""
    read, damaged = _index(study)
    numbers = [*read, *damaged]
    if len(numbers) < max(numbers, default=-1) + 1 or damaged or not study.trials_dir.is_dir():
        read = _marked(study) | read
    reasons = dict.fromkeys(damaged, "its record is damaged")
    count = max([*read, *damaged], default=-1) + 1
    lost = "its record was lost"
    trials = [read.get(n) or Trial(n, {}, problem=reasons.get(n, lost)) for n in range(count)]
    return trials, damaged


def _consequence(study: Study, number: int) -> tuple[str, str]:
    """What is done about a damaged record, and what else can be."""
    trial = read_trials(study)[number]
    if trial.runs:
        return "its run folders have a copy, which counts", "a launch writes it anew"
    return "it counts as failed", "raise `trials:` by one for another, or restore the file"


def _index(study: Study) -> tuple[dict[int, Trial], dict[int, Path]]:
    """Trials by their files, and the files that are damaged; no more than a search can have."""
    try:
        names = os.listdir(study.trials_dir)  # noqa: PTH208
    except FileNotFoundError:
        return {}, {}
    paths = {int(n[:-5]): study.trials_dir / n for n in names if _NAME.fullmatch(n)}
    most = _most(study)
    found: dict[int, Trial] = {}
    damaged: dict[int, Path] = {}
    for number, path in sorted(paths.items()):
        if number < most:
            trial = Trial.read(_record(path), number, study.search)
            if trial is None:
                damaged[number] = path
            else:
                found[number] = trial
    return found, damaged


def _most(study: Study) -> int:
    """The highest number that a trial may have: not so many can be lost that it is higher."""
    files = len(os.listdir(study.trials_dir)) if study.trials_dir.is_dir() else 0  # noqa: PTH208
    return files + max(_MOST_LOST, study.search.total)


def _record(path: Path) -> Any:
    """The content of a record; None if it cannot be read."""
    try:
        return read_json(path)
    except (OSError, RecursionError):
        return None


def _marked(study: Study) -> dict[int, Trial]:
    """Trials by the copies in run folders."""
    store, found, most = RunStore(study.state.results_dir), {}, _most(study)
    for name in store.names():
        folder = store.runs_dir / name / MARKS
        for path in folder.glob(f"{study.name}-*.json") if folder.is_dir() else ():
            number = path.stem.rpartition("-")[2]
            known = _NAME.fullmatch(f"{number}.json") and int(number) < most
            record = _record(path) if known else None
            if isinstance(record, dict) and record.get("study") == study.name:
                trial = Trial.read(record, int(number), study.search)
                if trial is not None:
                    found[trial.number] = trial
    return found
