"""What can be deleted without losing a result, and its deletion when asked for."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vexp.errors import VexpError
from vexp.files import read_json, storage_errors
from vexp.runs.claim import attempt_folder, read_marks, read_owner
from vexp.runs.store import RunFolder, RunStore
from vexp.runs.workspace import CHECKPOINTS, STAGES
from vexp.train.checkpoint import OPTIMIZER, drop_optimizer

_OLD_S = 3600.0  # a temporary folder this old belongs to nobody


@dataclass(frozen=True)
class Removable:
    """Something that can go."""

    path: Path
    why: str
    size: int  # bytes on disk; what is hard-linked elsewhere counts, too


def removable(store: RunStore) -> list[Removable]:
    """Everything that can go, runs that are being worked on left out; nothing is deleted."""
    runs = store.runs()
    idle = [run for run in runs if not _working(run.folder)]
    found = [*_leftovers(store.runs_dir), *_leftovers(store.stages_dir)]
    found += _leftovers(store.evaluations_dir)
    for run in idle:
        found += _of_run(run)
    found += _unused_stages(store, runs)
    return sorted(found, key=lambda item: str(item.path))


def clean(store: RunStore, *, yes: bool = False) -> list[Removable]:
    """List what can go; delete it only with `yes`."""
    found = removable(store)
    for item in found if yes else ():
        _delete(item.path)
    return found


def _delete(path: Path) -> None:
    with storage_errors(path):
        if path.name == OPTIMIZER:
            drop_optimizer(path.parent)
        elif path.is_dir():
            aside = path.with_name(f".{path.name.lstrip('.')}.deleted.tmp")
            path.rename(aside)
            shutil.rmtree(aside)
        else:
            path.unlink(missing_ok=True)


def _of_run(run: RunFolder) -> Iterator[Removable]:
    """Leftovers of a run nobody works on; of a finished one also what only training needed."""
    yield from _leftovers(run.folder)
    yield from _leftovers(run.evaluations_dir)
    for attempt in run.attempts():
        yield from _leftovers(attempt_folder(run.folder, attempt) / CHECKPOINTS)
    published, result = run.published(), run.result()
    if published is None or result is None:
        return
    kept = Path(result["checkpoint"] or "").parent.name
    for attempt in run.attempts():
        home = attempt_folder(run.folder, attempt) / CHECKPOINTS
        if attempt != published:
            if home.is_dir():
                yield _item(home, "checkpoints of a superseded attempt")
            continue
        for folder in sorted(home.glob("step-*")):
            if folder.name != kept:
                yield _item(folder, "not the final checkpoint of a finished run")
            elif (folder / OPTIMIZER).exists():
                yield _item(folder / OPTIMIZER, "optimiser state of a finished run")


def _leftovers(folder: Path) -> Iterator[Removable]:
    """Folders and files that were being built when their process died."""
    try:
        entries = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    for path in entries:
        if not path.name.startswith("."):
            continue
        if path.name.endswith((".tmp", ".deleted")) and _age_s(path) > _OLD_S:
            yield _item(path, "left over by a process that died")
        elif path.name.endswith(".work") and not _working(path):
            target = folder / path.name[1:].removesuffix(".work")
            if target.exists():
                yield _item(path, f"work on {target.name}, which is finished")


def _unused_stages(store: RunStore, runs: list[RunFolder]) -> Iterator[Removable]:
    """Shared stages that no run refers to."""
    referred: set[str] = set()
    for run in runs:
        names = _stages_of(run)
        if names is None:  # a run that cannot be read may need any of them
            return
        referred |= names
    if store.stages_dir.is_dir():
        for path in sorted(store.stages_dir.iterdir()):
            name = path.name[1:].removesuffix(".work") if path.name[0] == "." else path.name
            temporary = path.name[0] == "." and not path.name.endswith(".work")
            if path.is_dir() and not temporary and name not in referred and not _working(path):
                yield _item(path, "a shared stage that no run refers to")


def _stages_of(run: RunFolder) -> set[str] | None:
    """Names of the shared stages a run used or will use; None if that cannot be told."""
    from vexp.config.identity import stage_key

    recorded = [attempt_folder(run.folder, n) / STAGES for n in run.attempts()]
    names = {name for path in recorded for name in read_json(path) or ()}
    try:
        if names or run.imported:
            return names
        spec = run.spec()
        return {f"{stage}-{stage_key(spec, stage)}" for stage in spec.stages}
    except VexpError:
        return None


def _working(folder: Path) -> bool:
    """Whether a process that may be alive owns the folder."""
    marks = read_marks(folder)
    if marks.done or marks.live is None:
        return False
    owner = read_owner(folder, marks.live)
    return owner is not None and not owner.gone()


def _item(path: Path, why: str) -> Removable:
    return Removable(path, why, size_of(path))


def size_of(path: Path) -> int:
    """Bytes below `path`."""
    if not path.is_dir():
        return path.stat().st_size if path.exists() else 0
    return sum(
        (Path(here) / name).lstat().st_size for here, _, names in os.walk(path) for name in names
    )


def _age_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime
