"""What can be deleted without losing a result, and its deletion when asked for."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vexp.errors import Damaged, Problem, VexpError
from vexp.files import names_in, read, storage_errors
from vexp.runs.claim import attempt_folder, read_marks, read_owner
from vexp.runs.store import RunFolder, RunStore
from vexp.runs.workspace import CHECKPOINTS, STAGES
from vexp.train.checkpoint import drop_optimizer
from vexp.train.manifest import OPTIMIZER

_OLD_S = 3600.0  # a temporary folder this old belongs to nobody


@dataclass(frozen=True)
class Removable:
    """Something that can go."""

    path: Path
    why: str
    size: int  # bytes on disk; what is hard-linked elsewhere counts, too


@dataclass(frozen=True)
class Cleaning:
    """What can go, and the runs that cannot be read: nothing of theirs goes, nor any stage."""

    items: list[Removable]
    damage: dict[str, Problem]  # by what it is of


def removable(store: RunStore) -> Cleaning:
    """Everything that can go, runs that are being worked on left out; nothing is deleted."""
    runs, broken = store.readable()
    damage = {f"run {name}": problem for name, problem in broken.items()}
    found = [*_leftovers(store.runs_dir), *_leftovers(store.stages_dir)]
    found += _leftovers(store.evaluations_dir)
    for run in runs:
        try:
            found += [] if _working(run.folder) else list(_of_run(run))
        except Damaged as error:
            damage[f"run {run.name}"] = error.problem
    if not damage:  # a run that cannot be read may need any stage
        found += _unused_stages(store, runs)
    return Cleaning(sorted(found, key=lambda item: str(item.path)), damage)


def clean(store: RunStore, *, yes: bool = False) -> Cleaning:
    """List what can go; delete it only with `yes`."""
    found = removable(store)
    for item in found.items if yes else ():
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
    kept = Path(result.checkpoint or "").parent.name
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
        names = names_in(folder)
    except Damaged:  # what cannot be looked into holds nothing that could go
        return
    for path in (folder / name for name in sorted(names) if name.startswith(".")):
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
    from vexp.spec.identity import stage_key

    try:
        recorded = [attempt_folder(run.folder, n) / STAGES for n in run.attempts()]
        names = {name for path in recorded for name in read(path, list[str]) or ()}
        if names or run.imported:
            return names
        spec = run.spec()
        return {f"{stage}-{stage_key(spec, stage)}" for stage in spec.stages}
    except VexpError:
        return None


def _working(folder: Path) -> bool:
    """Whether a process that may be alive owns the folder; of one that is unreadable, it may."""
    try:
        marks = read_marks(folder)
    except Damaged:
        return True
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
