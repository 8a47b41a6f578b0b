"""One submission to Slurm, as it is kept in a sweep's state folder.

    jobs/<batch>.json     one submission: its runs, in the order of the array's tasks
    jobs/<batch>/         the submitted script, and a log of each task
    jobs/<batch>/<task>.json   the run that a task has gone on to: of a search, see search/chain.py
    jobs/<batch>/<task>.began  the task has come as far as vexp
    jobs/<batch>/<task>.ended  it is gone without that, and its run knows

The batch is written before Slurm is asked, and its name is part of the job's name. So a process
that is killed in the middle of a submission, or gets no answer, leaves either nothing in the queue,
or jobs whose runs everybody finds by that name.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vexp import records
from vexp.errors import Damaged
from vexp.files import read, storage_errors, write_json
from vexp.runs.process_id import slurm_job
from vexp.runs.workspace import now
from vexp.sweeps.state import SweepState

FORMAT = 1


@dataclass(frozen=True)
class Batch:
    """One submission."""

    name: str
    runs: tuple[str, ...]  # the run of each task
    code: str  # name of the folder with the code that runs it
    job: str | None = None  # None: whoever submitted it has not lived to write it down

    @classmethod
    def read(cls, state: SweepState, name: str) -> Batch | None:
        """The batch of that name; None where its file is missing or damaged.

        Claims keep runs of a batch that nobody can read from being trained twice.
        """
        try:
            record = read(home(state) / f"{name}.json", records.SlurmBatch)
        except Damaged:
            return None
        if record is None:
            return None
        return cls(name, tuple(record.runs), record.code, record.job or _job_of_begun(state, name))

    def write(self, state: SweepState) -> None:
        content = {"format": FORMAT, "job": self.job, "code": self.code, "at": now()}
        write_json(home(state) / f"{self.name}.json", content | {"runs": list(self.runs)})

    def run(self, state: SweepState, task: int) -> str:
        """The run that a task is at."""
        try:
            moved = read(logs(state, self.name) / f"{task}.json", records.SlurmTask)
        except Damaged:
            moved = None
        return moved.run if moved else self.runs[task]

    def move(self, state: SweepState, task: int, run: str) -> None:
        """Say that a task has gone on to another run."""
        write_json(logs(state, self.name) / f"{task}.json", {"run": run})

    def log(self, state: SweepState, job: str) -> Path:
        """Where the task that Slurm knows as `job` prints."""
        return logs(state, self.name) / f"{job}_0_log.out"

    def began(self, state: SweepState, task: int) -> None:
        """Say that a task, this process, has come as far as vexp."""
        with contextlib.suppress(OSError):  # a full disk: the run itself will say so
            logs(state, self.name).mkdir(parents=True, exist_ok=True)
            (logs(state, self.name) / f"{task}.began").write_text(slurm_job())

    def settled(self, state: SweepState, task: int) -> bool:
        """Whether nothing is left to be found out about a task that is gone."""
        own = logs(state, self.name)
        return (own / f"{task}.began").exists() or (own / f"{task}.ended").exists()

    def settle(self, state: SweepState, task: int) -> bool:
        """Say so of a task; whether this was the first to."""
        path = logs(state, self.name) / f"{task}.ended"
        with storage_errors(path), contextlib.suppress(FileExistsError):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            return True
        return False

    def code_folder(self, state: SweepState) -> Path:
        return state.folder / "code" / self.code


def _job_of_begun(state: SweepState, name: str) -> str | None:
    """The job id of a batch whose submitter got no answer, as a task of it that began says."""
    for path in logs(state, name).glob("*.began"):
        return path.read_text().partition("_")[0] or None
    return None


def batches(state: SweepState) -> Iterator[Batch]:
    for path in sorted(home(state).glob("*.json")):
        batch = Batch.read(state, path.stem)
        if batch is not None:
            yield batch


def home(state: SweepState) -> Path:
    return state.folder / "jobs"


def logs(state: SweepState, batch: str) -> Path:
    return home(state) / batch
