"""What a sweep leaves in `results/sweeps/<name>/`; runs themselves lie in `results/runs`.

    queue.json        what the last `vexp launch` found missing, in the order of work
    configs/          configs of runs whose folder was made with other evaluators or devices
    submitted.jsonl   every run that was ever launched for this sweep, so that orphans are known
    events.jsonl      what workers did: a run started, a run ended and how
    workers/          slots and logs of the workers
    search/           of a sweep with a search: its trials, see vexp.sweeps.search.study

Everything but the queue can be deleted; a launch writes the queue again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from msgspec import structs

from vexp import records
from vexp.errors import Damaged, RunError
from vexp.files import (
    append_line,
    read,
    read_bytes,
    read_json,
    storage_errors,
    write_json,
)
from vexp.record_json import decoded
from vexp.runs.status import RunStatus, status_of

T = TypeVar("T")
FORMAT = records.Queue.newest


@dataclass(frozen=True)
class Entry:
    """One run to be worked on."""

    run: str  # name of its folder in results/runs
    label: str  # of the first point that it serves
    shares: str | None = None  # first stage, which other runs may wait for
    retry_until: int | None = None  # a run that failed is due again up to this many attempts
    evaluate: bool = False  # trained already, but evaluations were missing at the launch
    resources: Mapping[str, Any] = field(default_factory=dict)  # see `Launcher.asking`
    launch: int = 0  # number of the launch that asked for it; a worker serves each run once for it
    trial: int | None = None  # of the sweep's search


@dataclass(frozen=True)
class SweepState:
    """The state folder of one sweep."""

    folder: Path

    @classmethod
    def of(cls, results_dir: str | Path, name: str) -> SweepState:
        return cls(Path(results_dir) / "sweeps" / name)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def results_dir(self) -> Path:
        return self.folder.parents[1]

    @property
    def workers(self) -> Path:
        return self.folder / "workers"

    def status(self, run: str) -> RunStatus | None:
        """Where a run stands; None if its folder is gone."""
        return status_of(self.results_dir / "runs" / run)

    def others(self) -> list[SweepState]:
        """The other sweeps of this results folder."""
        try:
            folders = sorted(path for path in self.folder.parent.iterdir() if path.is_dir())
        except FileNotFoundError:
            return []
        return [SweepState(path) for path in folders if path.name != self.name]

    def config(self, run: str) -> Path:
        """The config under which this sweep runs `run`, if it is not that of the run's folder."""
        return self.folder / "configs" / f"{run}.json"

    def queue(self) -> list[Entry]:
        """What is to be worked on, in this order.

        Raises:
            RunError: if the file is missing, damaged or of a newer format.
        """
        path = self.folder / "queue.json"
        record = read(path, records.Queue)
        if record is None:
            raise Damaged(
                "the sweep's queue is missing", where=str(path), remedy=records.Queue.remedy
            )
        return [Entry(**structs.asdict(entry)) for entry in record.runs]

    def record(self) -> records.Queue | None:
        """All that the queue's file says; None if it is missing or damaged."""
        try:
            return read(self.folder / "queue.json", records.Queue)
        except Damaged:
            return None

    def write_queue(
        self, entries: Sequence[Entry], file: Path, launch: int = 0, **more: int
    ) -> None:
        """Replace the queue; living workers read it whenever they look for the next run.

        `launch` is the number of the launch that writes it, kept even when nothing is left to do.
        """
        path, runs = self.folder / "queue.json", [asdict(entry) for entry in entries]
        content = {"format": FORMAT, "file": str(file), "launch": launch, **more, "runs": runs}
        if read_json(path) != content:
            write_json(path, content)

    def launches(self) -> int:
        """The number of the last launch; 0 if that cannot be told."""
        record = self.record()
        return record.launch if record is not None else 0

    def retries(self) -> dict[str, int]:
        """Failed runs that a launch asked to be done again, and up to which attempt."""
        try:
            entries = self.queue()
        except RunError:
            return {}
        return {entry.run: entry.retry_until for entry in entries if entry.retry_until is not None}

    def submitted(self) -> dict[str, str]:
        """Every run that was ever launched: folder name -> label."""
        rows = _readable(self.folder / "submitted.jsonl", records.Submitted)
        return {row.run: row.label for row in rows}

    def remember(self, runs: Mapping[str, str]) -> None:
        """Add runs (folder name -> label) to those that were launched."""
        known = self.submitted()
        for run, label in runs.items():
            if run not in known:
                self._append("submitted.jsonl", {"run": run, "label": label})

    def event(self, row: Mapping[str, Any]) -> None:
        """Note what a worker did."""
        self._append("events.jsonl", row)

    def ends(self) -> dict[str, records.Event]:
        """How each run last ended under a worker of this sweep, by folder name."""
        rows = _readable(self.folder / "events.jsonl", records.Event)
        return {row.run: row for row in rows if row.event == "ended"}

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        append_line(self.folder / name, row)


def _readable(path: Path, kind: type[T]) -> Iterator[T]:
    """The rows of a notebook; what a kill tore and what is damaged is passed over: they inform."""
    try:
        content = read_bytes(path)
    except OSError:
        return
    for line in content.split(b"\n"):
        with contextlib.suppress(Damaged):
            yield decoded(line, kind, path)
