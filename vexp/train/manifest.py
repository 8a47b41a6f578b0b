"""The manifest of a checkpoint or a stage: every file with its SHA-256, checked before it is used.

Hashing 15 GB takes a minute, so what was found in order is remembered beside the folder, in
`.<name>.verified`, by size, times and inode of each file. That file can be deleted at any time; one
that is damaged, or cannot be written, costs the time again and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from vexp import records
from vexp.errors import CheckpointError, Damaged, StorageError
from vexp.files import read, write_json

MANIFEST, MODEL = "manifest.json", "model"
OPTIMIZER, MEMORY, FORMER = "optimizer.safetensors", "memory.safetensors", "former.safetensors"
RESUMING = (OPTIMIZER, MEMORY, FORMER)  # what only resuming needs; dropped when a run is published
FORMAT = records.ManifestRecord.newest
_HASH_LENGTH = 16  # hex digits
_SETTLED_NS = 2_000_000_000  # a file changed since might change again without another time

Stamp = tuple[int, int, int, int]


def write_manifest(folder: Path) -> None:
    """Record size and SHA-256 of all files below `folder`."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {
        path.relative_to(folder).as_posix(): {
            "sha256": sha256(path),
            "size": path.stat().st_size,
        }
        for path in paths
    }
    write_json(folder / MANIFEST, {"format": FORMAT, "files": files})


def damage(folder: Path, *, remembered: bool = False) -> str | None:
    """What is wrong with a checkpoint or stage folder; None if every file is as it was written.

    With `remembered`, a file that was found in order before and has not changed since is not read
    again.
    """
    try:
        manifest = read(folder / MANIFEST, records.ManifestRecord)
    except Damaged as error:
        return str(error.problem.what)
    if manifest is None:
        return f"{MANIFEST} is missing"
    try:
        wrong = _incomplete(folder, manifest.files)
        return wrong or _changed(folder, manifest.files, remembered)
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"


def check(model: Path, content: str | None = None) -> None:
    """Ask whether a model that training wrote is what it was, and that of the hash `content`.

    Raises:
        CheckpointError: if it is not; names the file.
    """
    folder = model.parent
    wrong = damage(folder, remembered=True)
    if wrong is None and content is not None and listed_hash(folder) != content:
        wrong = f"{MANIFEST} lists other weights than those of hash {content}"
    if wrong is not None:
        raise CheckpointError(
            f"the weights are not those that were published: {wrong}",
            where=str(folder),
            remedy="restore this folder from a backup; without one, move the run's folder away "
            "and run it again",
        )


def check_if_listed(model: Path) -> None:
    """The same of any model's folder; one that training here did not write has no manifest.

    Raises:
        CheckpointError: as `check`.
    """
    if (model.parent / MANIFEST).exists():
        check(model)


def listed_hash(folder: Path) -> str:
    """The content hash of the model in a checkpoint that was found in order.

    Raises:
        Damaged: if the manifest was damaged since.
    """
    manifest = read(folder / MANIFEST, records.ManifestRecord) or records.ManifestRecord({})
    start = f"{MODEL}/"
    return hash_of({n.removeprefix(start): f.sha256 for n, f in manifest.files.items()
                    if n.startswith(start) and counts(n)})  # fmt: skip


def hash_of(files: Mapping[str, str]) -> str:
    """The hash of a model's content: its files by name, each with its SHA-256."""
    text = json.dumps(sorted(files.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_LENGTH]


def counts(name: str) -> bool:
    """Whether a file below a model's folder is part of the model."""
    last = name.rpartition("/")[2]
    return last != MANIFEST and not last.startswith(".")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _incomplete(folder: Path, files: Mapping[str, records.Listed]) -> str | None:
    """What a manifest lacks of the folder, or the folder of its manifest."""
    if not any(name.startswith(f"{MODEL}/") for name in files):
        return f"{MANIFEST} lists no model"
    for name, listed in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != listed.size:
            return f"{name} has {path.stat().st_size} bytes instead of {listed.size}"
    # Killed while it dropped what only resuming needs: the rest of that is nothing any more.
    left = () if OPTIMIZER in files else RESUMING
    stray = next((n for n in _read_by_training(folder) if n not in files and n not in left), None)
    return f"{stray} is not listed in {MANIFEST}" if stray else None


def _read_by_training(folder: Path) -> Iterator[str]:
    """Names of the files that loading or resuming would read."""
    yield from (path.name for path in sorted(folder.glob("*.safetensors")))
    for path in sorted((folder / MODEL).rglob("*")):
        if path.is_file() and counts(path.name):
            yield path.relative_to(folder).as_posix()


def _changed(folder: Path, files: Mapping[str, records.Listed], remembered: bool) -> str | None:
    known = _remembered(folder) if remembered else {}
    settled = time.time_ns() - _SETTLED_NS
    found: dict[str, records.Verified] = {}
    for name, listed in files.items():
        path = folder / name
        stamp = _stamp(path)
        before = known.get(name)
        digest = before.sha256 if before and before.stamp == stamp else sha256(path)
        if digest != listed.sha256:
            return f"the content of {name} has changed"
        if max(stamp[1:3]) < settled and _stamp(path) == stamp:
            found[name] = records.Verified(stamp, digest)
    if remembered and found != known:
        _remember(folder, found)
    return None


def _stamp(path: Path) -> Stamp:
    about = path.stat()
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino


def _cache(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.verified"


def _remembered(folder: Path) -> dict[str, records.Verified]:
    try:
        return read(_cache(folder), dict[str, records.Verified]) or {}
    except Damaged:
        return {}


def _remember(folder: Path, found: Mapping[str, records.Verified]) -> None:
    """Several may write at once: the file is replaced as one, and any of their contents is true."""
    with contextlib.suppress(StorageError, OSError):  # results that one may only read
        if os.access(folder.parent, os.W_OK):
            write_json(_cache(folder), {name: records.plain(each) for name, each in found.items()})
