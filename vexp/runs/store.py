"""The run folders of a results folder: found by hash, created at once or not at all, listed fast.

Everything a run is lies in its folder; no index stands beside them.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vexp import masking, records
from vexp.errors import ConfigError, Damaged, Problem, RunError, suggest
from vexp.files import check_folder, is_file, names_in, new_folder, unreadable, write_json
from vexp.forked import in_parts
from vexp.runs import trust
from vexp.runs.record import RECORD, check_same_science, new_record, read_record
from vexp.runs.status import RunStatus, published, result_of, status_of

if TYPE_CHECKING:
    from vexp.spec.identity import Identity
    from vexp.spec.run import RunSpec


_RUN = re.compile(r"-[0-9a-f]{8,}$")  # ends the name of a run's folder


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
    def record(self) -> records.Run:
        """The content of run.json.

        Raises:
            RunError: if it is missing, damaged or of a newer format.
        """
        return read_record(self.folder)

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config with which the run was created."""
        return self.record.config

    @property
    def imported(self) -> bool:
        """Brought in by `vexp import`: results only, no checkpoints."""
        return self.record.imported

    @property
    def evaluations_dir(self) -> Path:
        return self.folder / "evaluations"

    def spec(self, *, trusting: bool = False) -> RunSpec:
        """The run as it was configured; its plugins are loaded, of a foreign run if `trusting`.

        Raises:
            ConfigError: if this vexp or a plugin no longer accepts that config.
            RunError: if somebody else wrote it, and it names code that is not trusted.
        """
        from vexp.config.schema import ConfigReading, Origin, build
        from vexp.registry import REGISTRY
        from vexp.spec.run import StoredRunSpec

        where, plugins = str(self.folder / RECORD), self.config.get("plugins", [])
        if not isinstance(plugins, list) or not all(isinstance(name, str) for name in plugins):
            raise Damaged(
                f"{RECORD} is damaged: `config.plugins` is no list of files",
                where=where,
                remedy=records.Run.remedy,
            )
        if not trusting:
            trust.check(self.folder, self.record, where)
        REGISTRY.load_plugins(plugins, origin=where)
        origins: dict[tuple[str, ...], Origin] = {(key,): Origin(where) for key in self.config}
        config = masking.restored(self.config, where)
        return build(StoredRunSpec, config, ConfigReading(origins=origins))

    def attempts(self) -> list[int]:
        """Numbers of the attempts that left a folder, oldest first.

        Raises:
            Damaged: if they cannot be listed.
        """
        names = names_in(self.folder / "attempts")
        return sorted(int(name) for name in names if name.isdecimal())

    def published(self) -> int | None:
        """Number of the attempt that was published, if one was.

        Raises:
            Damaged: if done.json is.
        """
        return published(self.folder)

    def result(self) -> records.Result | None:
        """What the published attempt ended with: its checkpoint and that checkpoint's hash.

        Raises:
            Damaged: if done.json or the result is.
        """
        return result_of(self.folder)

    def model(self, result: records.Result) -> Path | None:
        """The model folder that `result` names; None for a run without stages."""
        return self.folder / result.checkpoint if result.checkpoint is not None else None

    def status(self) -> RunStatus:
        """Where the run stands.

        Raises:
            FileNotFoundError: if the folder is gone.
        """
        found = status_of(self.folder)
        if found is None:
            raise FileNotFoundError(str(self.folder))
        return found


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
        except OSError as error:
            check_folder(self.runs_dir)
            raise unreadable(error, self.runs_dir) from error

    def find(self, identity: Identity) -> RunFolder | None:
        """The folder of a run, whatever its slug; None if it was never started."""
        if is_file(self.runs_dir / identity.name / RECORD):
            return RunFolder(self.runs_dir / identity.name)
        ending = f"-{identity.hash}"
        found = [self.runs_dir / name for name in self.names() if name.endswith(ending)]
        return next((RunFolder(f) for f in found if is_file(f / RECORD)), None)

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
        check_same_science(found.folder, identity)
        return found

    def load(self, reference: str | Path) -> RunFolder:
        """A run by its folder, its name, its hash or the start of its hash.

        Raises:
            RunError: if none or several match.
        """
        path = Path(reference)
        if is_file(path / RECORD):
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
        return [RunFolder(folder) for folder in folders if is_file(folder / RECORD)]

    def readable(self) -> tuple[list[RunFolder], dict[str, Problem]]:
        """All run folders that are in order, and what is wrong with the others by name."""
        found, damage = [], {}
        for status in self.statuses():
            if status.problem is None:
                found.append(RunFolder(status.folder))
            else:
                damage[status.name] = status.problem
        return found, damage

    def statuses(self, hashes: Collection[str] | None = None) -> list[RunStatus]:
        """State of every run, or of those with these hashes; what is damaged is one that says so.

        Ten thousand are read by several processes.
        """
        names = self._runs()
        if hashes is not None:
            names = [name for name in names if name.rpartition("-")[2] in hashes]
        looks = in_parts(functools.partial(_statuses, self.runs_dir), names)
        return [status for part in looks for status in part if status is not None]

    def _runs(self) -> list[str]:
        """Names of all folders that are runs, or were meant to be: one may have lost its record."""
        return [n for n in self.names() if _RUN.search(n) or is_file(self.runs_dir / n / RECORD)]


def _statuses(home: Path, names: Sequence[str]) -> list[RunStatus | None]:
    return [status_of(home / name) for name in names]


def _checked(run: RunFolder) -> RunFolder:
    read_record(run.folder)
    return run
