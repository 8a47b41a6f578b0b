"""The manifest of a fetched folder: every file with its source and hash; written when all is there.

A fetch first leaves a note of what it is about (`unfinished-….json`) and takes it away after the
manifest is written, so a folder that lacks files is never taken for whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from vexp.errors import Problem, RunError
from vexp.files import read_json, write_json
from vexp.hub import Repository, is_inside, whole

MANIFEST = "manifest.json"
UNFINISHED = "unfinished-*.json"
FORMAT = 1
_AT_ONCE = 1 << 20  # bytes read at a time


@dataclass(frozen=True)
class FileRow:
    """One file: where it is in the folder, where it came from, and what it was then."""

    path: str  # relative to the folder
    source: str  # its address
    repository: str
    revision: str  # the commit
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Held:
    """One repository, as it was asked for and as it was."""

    kind: str
    repository: str
    revision: str
    commit: str
    by: list[str]  # config keys that named it

    @property
    def asked(self) -> Repository:
        return Repository(self.kind, self.repository, self.revision)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Manifest:
    """What a folder holds."""

    repositories: tuple[Held, ...] = ()
    files: tuple[FileRow, ...] = ()

    @property
    def bytes(self) -> int:
        return sum(row.bytes for row in self.files)

    def with_(self, held: Iterable[Held], rows: Iterable[FileRow]) -> Manifest:
        """With further repositories and files; what has the same name is replaced."""
        repositories = {one.asked: one for one in (*self.repositories, *held)}
        files = {row.path: row for row in (*self.files, *rows)}
        return Manifest(tuple(repositories.values()), tuple(files[path] for path in sorted(files)))


def read(folder: Path) -> Manifest:
    """The manifest of a folder; empty if it has none.

    Raises:
        RunError: if it is damaged, or of a later vexp.
    """
    path = folder / MANIFEST
    if not path.exists():
        return Manifest()
    found: Any = read_json(path)
    try:
        if found["format"] != FORMAT:
            raise RunError(
                f"this manifest has format {found['format']!r}, and this vexp knows {FORMAT}",
                where=str(path),
                remedy="use the vexp that wrote it, or a later one",
            )
        held = msgspec.convert(found["repositories"], tuple[Held, ...])
        rows = msgspec.convert(found["files"], tuple[FileRow, ...])
        if outside := [row.path for row in rows if not is_inside(row.path)]:
            raise KeyError(outside[0])
        return Manifest(held, rows)
    except (TypeError, KeyError, msgspec.ValidationError) as error:
        raise RunError(
            "the manifest is damaged",
            where=str(path),
            remedy="delete it and run `vexp fetch` again",
        ) from error


def write(folder: Path, manifest: Manifest) -> None:
    from vexp import __version__

    content = {
        "format": FORMAT,
        "vexp": __version__,
        "repositories": [asdict(held) for held in manifest.repositories],
        "files": [asdict(row) for row in manifest.files],
    }
    write_json(folder / MANIFEST, content)


def begin(folder: Path, repositories: Mapping[Repository, list[str]]) -> Path:
    """Note that these are being fetched; the note is taken away at the end."""
    asked = sorted(map(str, repositories))
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:12]
    path = folder / UNFINISHED.replace("*", digest)
    write_json(path, {"repositories": asked})
    return path


def hashes(path: Path) -> tuple[int, str, str]:
    """Bytes of a file, its sha256, and its hash as git has it."""
    size = path.stat().st_size
    plain, git = hashlib.sha256(), hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while part := file.read(_AT_ONCE):
            plain.update(part)
            git.update(part)
    return size, plain.hexdigest(), git.hexdigest()


def check(folder: Path) -> Iterator[Problem]:
    """What of a folder is not as its manifest says; reads every byte.

    Raises:
        RunError: if it has no manifest, or one that cannot be read.
    """
    again = "run the same `vexp fetch` again where there is a network"
    unfinished = sorted(folder.glob(UNFINISHED))
    for path in unfinished:
        note: Any = read_json(path)
        of = f" of {', '.join(note['repositories'])}" if isinstance(note, dict) else ""
        yield Problem(f"a fetch{of} has not ended", where=str(path), remedy=again)
    if not (folder / MANIFEST).is_file():
        if not unfinished:
            raise RunError(
                f"there is no {MANIFEST}: this is no folder that `vexp fetch` has filled",
                where=str(folder),
            )
        return
    manifest = read(folder)
    for row in manifest.files:
        if (wrong := _wrong(folder / row.path, row)) is not None:
            yield Problem(f"{row.repository}: a file {wrong}", where=row.path, remedy=again)
    for held in manifest.repositories:
        found = whole(held.asked, folder / "hub")
        if found is None or found.name != held.commit:
            what = f"{held.repository} at {held.revision} is not found by the hub's library"
            yield Problem(what, where=str(folder / "hub"), remedy=again)


def _wrong(path: Path, row: FileRow) -> str | None:
    if not path.is_file():
        return "is missing"
    size, sha256, _ = (
        (path.stat().st_size, "", "") if path.stat().st_size != row.bytes else hashes(path)
    )
    if size != row.bytes:
        return f"has {size} bytes instead of {row.bytes}"
    return None if sha256 == row.sha256 else "has another content than was fetched"
