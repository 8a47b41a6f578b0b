"""The run folders of a results folder: found by hash, created at once or not at all, listed fast.

Everything a run is lies in its folder; no index stands beside them.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from vexp import __version__, masking
from vexp.errors import ConfigError, RunError, suggest
from vexp.files import check_folder, new_folder, read_json, write_json
from vexp.runs import trust
from vexp.runs.claim import DONE, attempt_folder, attempt_name, live_file, marks_of, read_owner
from vexp.runs.heartbeat import age_s
from vexp.runs.owner import Owner

if TYPE_CHECKING:
    from vexp.config.identity import Identity
    from vexp.spec import RunSpec

FORMAT = 1  # of run folders; raised when an older vexp could not read a newer folder
RECORD = "run.json"
RESULT = "result.json"
SWITCHES = "switches.json"
State = Literal["new", "running", "stopped", "failed", "pruned", "done"]


@dataclass(frozen=True)
class RunFolder:
    """One run's folder; its record is read when first asked for."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def hash(self) -> str:
        return self.name.rpartition("-")[2]

    @property
    def slug(self) -> str:
        return self.name.rpartition("-")[0]

    @functools.cached_property
    def record(self) -> Mapping[str, Any]:
        """The content of run.json.

        Raises:
            RunError: if it is missing, damaged or of a newer format.
        """
        return read_record(self.folder)

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config with which the run was created."""
        return cast("dict[str, Any]", self.record["config"])

    @property
    def imported(self) -> bool:
        """Brought in by `vexp import`: results only, no checkpoints."""
        return bool(self.record.get("imported"))

    @property
    def evaluations_dir(self) -> Path:
        return self.folder / "evaluations"

    def spec(self, *, trusting: bool = False) -> RunSpec:
        """The run as it was configured; its plugins are loaded, of a foreign run if `trusting`.

        Raises:
            ConfigError: if this vexp or a plugin no longer accepts that config.
            RunError: if somebody else wrote it, and it names code that is not trusted.
        """
        from vexp.config.schema import Origin, Reading, build
        from vexp.registry import REGISTRY
        from vexp.spec import StoredRunSpec

        where = str(self.folder / RECORD)
        if not trusting:
            trust.check(self.folder, self.record, where)
        REGISTRY.load_plugins(self.config.get("plugins", ()), origin=where)
        origins: dict[tuple[str, ...], Origin] = {(key,): Origin(where) for key in self.config}
        config = masking.restored(self.config, where)
        return build(StoredRunSpec, config, Reading(origins=origins))

    def attempts(self) -> list[int]:
        """Numbers of the attempts that left a folder, oldest first."""
        try:
            names = os.listdir(self.folder / "attempts")  # noqa: PTH208
        except FileNotFoundError:
            return []
        return sorted(int(name) for name in names if name.isdecimal())

    def published(self) -> int | None:
        """Number of the attempt that was published, if one was."""
        record = read_json(f"{self.folder}/{DONE}")
        return int(record["attempt"]) if record is not None and "attempt" in record else None

    def result(self, likely: int | None = None) -> Mapping[str, Any] | None:
        """What the published attempt ended with: its checkpoint and that checkpoint's hash.

        `likely` is the attempt that a done run's status counts last; where it left a result, no
        other one did, and done.json need not be read.
        """
        found = self._result_of(likely) if likely is not None else None
        if found is None and (attempt := self.published()) is not None:
            found = self._result_of(attempt)
        return found

    def _result_of(self, attempt: int) -> Mapping[str, Any] | None:
        path = f"{self.folder}/{attempt_name(attempt)}/{RESULT}"
        return cast("Mapping[str, Any] | None", read_json(path))

    def model(self, result: Mapping[str, Any]) -> Path | None:
        """The model folder that `result` names; None for a run without stages."""
        return self.folder / result["checkpoint"] if result["checkpoint"] is not None else None

    def status(self) -> RunStatus:
        return _status(self.folder, os.listdir(self.folder))  # noqa: PTH208


@dataclass(frozen=True)
class RunStatus:
    """Where a run stands, as its files tell."""

    folder: Path
    state: State
    attempts: int = 0  # started so far
    owner: Owner | None = None  # of a running run
    silent_s: float | None = None  # since the owner's last heartbeat; by clocks, so a hint only
    progress: Mapping[str, Any] | None = None  # of a running run
    failure: Mapping[str, Any] | None = None  # of a failed run
    switched: bool = False  # it went on with another engine than it was declared with

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def hash(self) -> str:
        return self.name.rpartition("-")[2]


class RunStore:
    """The folder `results`: runs, shared stages, evaluations of checkpoints given by path."""

    def __init__(self, results_dir: str | Path = "results") -> None:
        self.root = Path(results_dir)
        self.runs_dir = self.root / "runs"
        self.stages_dir = self.root / "stages"
        self.evaluations_dir = self.root / "evaluations"

    def names(self) -> list[str]:
        """Names of all run folders, sorted; folders being built and stray files are no runs.

        Raises:
            StorageError: if a file stands where the folder has to be.
        """
        try:
            with os.scandir(self.runs_dir) as entries:
                return sorted(e.name for e in entries if e.name[0] != "." and e.is_dir())
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            check_folder(self.runs_dir)
            raise

    def find(self, identity: Identity) -> RunFolder | None:
        """The folder of a run, whatever its slug; None if it was never started."""
        if (self.runs_dir / identity.name / RECORD).is_file():
            return RunFolder(self.runs_dir / identity.name)
        ending = f"-{identity.hash}"
        found = [self.runs_dir / name for name in self.names() if name.endswith(ending)]
        return next((RunFolder(f) for f in found if (f / RECORD).is_file()), None)

    def open(self, run: RunSpec, identity: Identity) -> RunFolder:
        """The folder of a run, created if it is missing, checked if it exists.

        Raises:
            ConfigError: if something of its inputs, and so its id, cannot be told here.
            RunError: if the folder with this id was written by another config.
            StorageError: if it cannot be created.
        """
        if unknown := run.unknown():
            raise ConfigError(unknown)
        found = self.find(identity)
        if found is None:
            found = RunFolder(self.runs_dir / identity.name)
            with new_folder(found.folder) as aside:
                write_json(aside / RECORD, new_record(run, identity))
        check_same_science(found, identity)
        return found

    def load(self, reference: str | Path) -> RunFolder:
        """A run by its folder, its name, its hash or the start of its hash.

        Raises:
            RunError: if none or several match.
        """
        path = Path(reference)
        if (path / RECORD).is_file():
            return _checked(RunFolder(path))
        text, names = str(reference), self.names()
        found = [name for name in names if name == text or name.rpartition("-")[2] == text]
        found = found or [n for n in names if text and n.rpartition("-")[2].startswith(text)]
        if len(found) == 1:
            return _checked(RunFolder(self.runs_dir / found[0]))
        if found:
            raise RunError(
                f"{text!r} is the start of several runs' hashes",
                where=str(self.runs_dir),
                accepted=", ".join(found[:5]),
                remedy="give more digits",
            )
        raise RunError(
            f"there is no run {text!r}",
            where=str(self.runs_dir),
            accepted=suggest(text, names, noun="runs"),
            remedy="a run is named by its folder, its id or the start of its hash",
        )

    def runs(self) -> list[RunFolder]:
        """All run folders with a record; reads none of them."""
        folders = (self.runs_dir / name for name in self.names())
        return [RunFolder(folder) for folder in folders if (folder / RECORD).is_file()]

    def statuses(self) -> list[RunStatus]:
        """State of every run; reads nothing of runs that are done, new or stopped."""
        found: list[RunStatus] = []
        home = str(self.runs_dir)
        for name in self.names():
            folder = f"{home}/{name}"
            names = os.listdir(folder)  # noqa: PTH208  (ten thousand folders: names are enough)
            if RECORD in names:
                found.append(_status(Path(folder), names))
        return found


def status_of(folder: Path) -> RunStatus | None:
    """Where the run in a folder stands; None if there is no such folder."""
    try:
        return RunFolder(folder).status()
    except FileNotFoundError:
        return None


def read_record(folder: Path) -> Mapping[str, Any]:
    """The checked content of a folder's run.json.

    Raises:
        RunError: if it is missing, damaged or of a newer format.
    """
    path = folder / RECORD
    record = read_json(path)
    if not isinstance(record, dict) or not {"format", "config", "science"} <= record.keys():
        raise RunError(
            f"{RECORD} is {'damaged' if path.exists() else 'missing'}",
            where=str(folder),
            remedy="restore it from a backup, or move the folder away and run again",
        )
    if record["format"] > FORMAT:
        raise RunError(
            f"this run folder was written by a newer vexp ({record.get('vexp', 'unknown')})",
            where=str(path),
            accepted=f"formats up to {FORMAT}; this is format {record['format']}",
            remedy="update vexp, or choose another results_dir",
        )
    return record


def new_record(run: RunSpec, identity: Identity) -> dict[str, Any]:
    """The content of a new run.json."""
    from vexp.config.schema import to_dict

    return {
        "format": FORMAT,
        "id": identity.name,
        "slug": identity.slug,
        "hash": identity.hash,
        "vexp": __version__,
        "config": masking.stored(to_dict(run)),
        "science": masking.stored(dict(identity.inputs)),
    }


def check_same_science(found: RunFolder, identity: Identity) -> None:
    """Raises:
    RunError: if the folder's run differs in anything that decides the weights; names the keys.
    """
    there = flattened(found.record["science"])
    here = flattened(json.loads(json.dumps(identity.inputs)))
    hidden = flattened(masking.stored(json.loads(json.dumps(identity.inputs))))
    lines = [
        f"{key}: {_shown(there, key)} there, {_shown(here, key)} here"
        for key in sorted(there.keys() | here.keys())
        if _shown(there, key) not in (_shown(here, key), _shown(hidden, key))
    ]
    if lines:
        more = f"; {len(lines) - 10} more" if len(lines) > 10 else ""
        raise RunError(
            "the run folder with this id was written by another config",
            where=str(found.folder),
            accepted="; ".join(lines[:10]) + more,
            remedy="move that folder away (it was edited or renamed), then run again",
        )


def flattened(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings by dotted key; lists and empty mappings are leaves."""
    if isinstance(tree, Mapping) and (tree or not prefix):
        found: dict[str, Any] = {}
        for key, value in tree.items():
            found |= flattened(value, f"{prefix}.{key}" if prefix else str(key))
        return found
    return {prefix: tree}


def _shown(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key]) if key in flat else "not set"


def _checked(run: RunFolder) -> RunFolder:
    read_record(run.folder)
    return run


def _status(folder: Path, names: list[str]) -> RunStatus:
    marks = marks_of(names)
    attempts = marks.next - 1
    status = functools.partial(RunStatus, folder, switched=SWITCHES in names)
    if marks.done:
        return status("done", attempts + 1)
    if marks.live is not None:
        owner = read_owner(folder, marks.live)
        if owner is None:  # it has ended between two looks
            return RunFolder(folder).status()
        if owner.gone():
            return status("stopped", attempts)
        here = attempt_folder(folder, marks.live)
        progress = read_json(here / "progress.json")
        silent_s = age_s(here / "heartbeat", live_file(folder, marks.live))
        return status("running", attempts, owner, silent_s, progress)
    if not marks.endings:
        return status("new")
    last = max(marks.endings)
    if marks.endings[last] == "failed":
        failure = read_json(attempt_folder(folder, last) / "failure.json")
        return status("failed", attempts, failure=failure)
    return status("pruned" if marks.endings[last] == "pruned" else "stopped", attempts)
