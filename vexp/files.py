"""Files that are never half-written: write aside, fsync, rename.

Every write that a reader may meet goes through here, so that a full disk, a read-only folder or a
killed process leaves the former content whole. Failures become `StorageError` with a remedy.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from vexp.errors import Damaged, StorageError
from vexp.record_json import decoded

T = TypeVar("T")

_ELSEWHERE = "write elsewhere: choose another results_dir, or `--output` where a command has it"
_REASONS = {
    errno.ENOSPC: ("the disk is full", "free some space (`vexp clean` lists what can go)"),
    errno.EDQUOT: ("the disk quota is used up", "free some space (`vexp clean` lists what can go)"),
    errno.EROFS: ("the file system is read-only", _ELSEWHERE),
    errno.EACCES: ("permission denied", f"{_ELSEWHERE}, or change its owner or mode"),
    errno.EPERM: ("permission denied", f"{_ELSEWHERE}, or change its owner or mode"),
}

_AT_ONCE = 1 << 16  # bytes read at a time
_MOST = 1 << 28  # bytes of a record; far more than any that vexp writes
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of renameat2(2)


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an operating-system error about `path` into a `StorageError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REASONS:
            raise
        reason, remedy = _REASONS[error.errno]
        where = error.filename if isinstance(error.filename, str) else str(path)
        what = f"cannot write: {reason}; nothing already written was lost"
        raise StorageError(
            what, where=where, remedy=f"{remedy}, then run the same command"
        ) from error


def open_regular(path: Path, *, most: int = 1 << 30) -> BinaryIO:
    """A file that a user names, opened to be read; a pipe or a device may never end.

    Raises:
        OSError: if it is not there, is no regular file, or has more than `most` bytes.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "this is no regular file", str(path))
    if status.st_size > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
    return path.open("rb")


def check_folder(path: Path) -> None:
    """Ask whether `path` is a folder, or can become one.

    Raises:
        StorageError: if a file stands there, or where a folder above it has to be.
    """
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise StorageError(
                "this is a file, but a folder has to be here",
                where=str(place),
                remedy="move it away, or choose another results_dir",
            )


def fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _aside(path: Path) -> Path:
    return path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, at once or not at all."""
    aside = _aside(path)
    with storage_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            aside.rename(path)
            fsync_folder(path.parent)
        finally:
            aside.unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Replace `path` by indented JSON; NaN and infinity are refused (they are not JSON)."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Build a folder aside and rename it to `path` when the block ends without an error.

    If `path` exists by then, the one that came first stays and this one is dropped.
    """
    aside = _aside(path)
    with storage_errors(path):
        try:
            _make(aside)
            yield aside
            for file in aside.rglob("*"):
                if file.is_file():
                    with file.open("rb") as handle:
                        os.fsync(handle.fileno())
            with contextlib.suppress(FileExistsError):
                _rename_new(aside, path)
            fsync_folder(path.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _make(folder: Path) -> None:
    """Create a folder with its parents; what /proc refuses it calls absent."""
    try:
        folder.mkdir(parents=True)
    except FileNotFoundError as error:
        raise StorageError(
            "cannot write: no folder can be created here",
            where=str(folder.parent),
            remedy="choose another results_dir, then run the same command",
        ) from error


def _rename_new(source: Path, target: Path) -> None:
    """Rename a folder to a name that must be free (POSIX refuses a non-empty target)."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError(error.errno, "exists", str(target)) from error
        raise


def replace_folder(aside: Path, target: Path) -> None:
    """Rename a folder to `target`; one that is there goes, at no moment is there none.

    Where the file system cannot exchange two folders, there is none for a moment.
    """
    if target.exists() and not _exchanged(aside, target):
        former = _aside(target)
        target.rename(former)
        aside.rename(target)
        shutil.rmtree(former, ignore_errors=True)
    elif not target.exists():
        aside.rename(target)
    fsync_folder(target.parent)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two names at once, as Linux can."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    here = _AT_FDCWD
    code: int = call(here, os.fsencode(one), here, os.fsencode(other), _RENAME_EXCHANGE)
    return code == 0


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Append one JSON line in a single write; a torn last line is recognised by `read_lines`."""
    line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
    with storage_errors(path), path.open("ab") as file:
        file.write(line.encode("utf-8"))


def read(path: Path | str, kind: type[T]) -> T | None:
    """The record in a JSON file, checked against `kind` of `vexp.records`; None if it is missing.

    Raises:
        Damaged: if it cannot be read, or is no such record; names the file and what is wrong.
    """
    try:
        content = read_bytes(path, _MOST)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(error, path) from error
    return decoded(content, kind, path)


def unreadable(error: OSError, path: Path | str) -> Damaged:
    """What is wrong with a file that is there and cannot be read."""
    foreign = error.errno in (errno.EACCES, errno.EPERM)
    return Damaged(
        f"{Path(path).name} cannot be read: {(error.strerror or str(error)).lower()}",
        where=str(path),
        remedy="ask its owner for leave to read it, or move its folder away"
        if foreign
        else "move its folder away, or restore it from a backup",
        content=False,
    )


def names_in(folder: Path | str) -> list[str]:
    """The names in a folder; none if it does not exist.

    Raises:
        Damaged: if it cannot be listed.
    """
    try:
        return os.listdir(folder)  # noqa: PTH208  (ten thousand folders: names are enough)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreadable(error, folder) from error


def is_file(path: Path) -> bool:
    """Whether there is such a file and this user may know it."""
    try:
        return path.is_file()
    except OSError:
        return False


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int | None]:
    """The complete JSON lines before the first damaged one, and its number (from 1) or None.

    Raises:
        Damaged: if the file is there and cannot be read.
    """
    rows: list[dict[str, Any]] = []
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        return rows, None
    except OSError as error:
        raise unreadable(error, path) from error
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line:
            continue
        try:
            row = msgspec.json.decode(line)
        except (ValueError, RecursionError):
            return rows, number
        if not isinstance(row, dict):
            return rows, number
        rows.append(row)
    return rows, None


def read_json(path: Path | str) -> Any | None:
    """The content of a JSON file; None if it is missing or damaged."""
    try:
        return json.loads(read_text(path))
    except (FileNotFoundError, ValueError, RecursionError):
        return None


def read_text(path: Path | str) -> str:
    """The text of a file.

    Raises:
        OSError: if it cannot be read.
        UnicodeDecodeError: if it is not UTF-8.
    """
    return read_bytes(path).decode("utf-8")


def read_bytes(path: Path | str, most: int | None = None) -> bytes:
    """A file's content, in a third of the time that `open` takes: some are read by the thousand.

    Raises:
        OSError: if it cannot be read, or holds more than `most` bytes.
    """
    # Without O_NONBLOCK a named pipe in place of the file would be waited for for ever.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        parts = [os.read(handle, _AT_ONCE)]
        while len(parts[-1]) == _AT_ONCE:  # a file gives less only at its end
            if most is not None and len(parts) * _AT_ONCE > most:
                raise OSError(errno.EFBIG, f"more than {most} bytes", str(path))
            parts.append(os.read(handle, _AT_ONCE))
    finally:
        os.close(handle)
    return b"".join(parts)
