"""Trials on disk: who creates a trial's file owns its number, so there are never too many."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vexp.files import fsync_folder, read_json, storage_errors, write_bytes, write_json
from vexp.runs.store import RunStore
from vexp.sweeps.search.study import Study

FORMAT = 1
MARKS = "trials"  # folder in a run's folder with copies of the trials that it belongs to


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
    def read(cls, record: Any) -> Trial | None:
        """From a record; None if it is damaged."""
        try:
            runs = tuple(TrialRun(**run) for run in record["runs"])
            return cls(
                int(record["number"]), record["params"], runs, record["problem"],
                record["attributes"],
            )  # fmt: skip
        except (KeyError, TypeError, ValueError):
            return None


def read_trials(study: Study) -> list[Trial]:
    """All trials, by number without a gap; from the run folders where their file is lost.

    One that is lost altogether counts as failed: its number is not given away again.
    """
    found = _index(study)
    count = max(found, default=-1) + 1
    if len(found) < count or not study.trials_dir.is_dir():
        found = _marked(study) | found
        count = max(found, default=-1) + 1
    return [found.get(n) or Trial(n, {}, problem="its record was lost") for n in range(count)]


def create(study: Study, trial: Trial) -> bool:
    """Write the file of a new trial, unless its number is taken; whether this was the first."""
    target = study.trials_dir / f"{trial.number:04d}.json"
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
    for trial in read_trials(study):
        if not (study.trials_dir / f"{trial.number:04d}.json").exists():
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

    False after `patience_s` without it: its holder is frozen, or far slower than it should be. The
    lock only spares work: numbers are owned by files, and the journal is mended.
    """
    with storage_errors(study.lock):
        study.lock.parent.mkdir(parents=True, exist_ok=True)
        file = study.lock.open("ab")
    with file:
        end = time.monotonic() + patience_s
        while not (held := _try_lock(file.fileno())) and time.monotonic() < end:
            time.sleep(0.02)
        yield held


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _index(study: Study) -> dict[int, Trial]:
    try:
        names = os.listdir(study.trials_dir)  # noqa: PTH208
    except FileNotFoundError:
        return {}
    paths = (study.trials_dir / name for name in names if name.endswith(".json") and name[0] != ".")
    read = (Trial.read(read_json(path)) for path in paths)
    return {trial.number: trial for trial in read if trial is not None}


def _marked(study: Study) -> dict[int, Trial]:
    """Trials by the copies in run folders."""
    store, found = RunStore(study.state.results_dir), {}
    for name in store.names():
        folder = store.runs_dir / name / MARKS
        for path in folder.glob(f"{study.name}-*.json") if folder.is_dir() else ():
            record: Any = read_json(path)
            trial = Trial.read(record)
            if trial is not None and record["study"] == study.name:
                found[trial.number] = trial
    return found
