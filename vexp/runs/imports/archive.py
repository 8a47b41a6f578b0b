"""The files of an export, a folder or a zip: bounded before they are read, and never unpacked."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vexp.errors import RunError
from vexp.runs.imports.reading import MAX_BYTES, shown

MAX_FILES = 100_000
MAX_TOTAL = 1 << 30  # bytes of all files of a zip, unpacked
MAX_RATIO = 200  # of these to the bytes of the zip: results shrink to a tenth or so
_SMALL = 1 << 20  # bytes of all files below which the ratio does not matter
_WRITTEN = "a folder or `.zip` file written by `vexp export`"
_AGAIN = "export it again; nothing was imported"
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError)


@dataclass(frozen=True)
class Archive:
    """Reads single files of an export by their names."""

    source: Path
    entries: zipfile.ZipFile | None = None  # None: `source` is a folder

    def read(self, name: str) -> bytes:
        """The content of one file.

        Raises:
            RunError: if it is missing, damaged, too large, or no plain file of the export.
        """
        return self._of_folder(name) if self.entries is None else self._of_zip(self.entries, name)

    def _of_folder(self, name: str) -> bytes:
        path = self.source / name
        try:
            home = self.source.resolve()
            if not path.exists():
                raise self.refused(f"{name} of this export is missing")
            if path.resolve() != home / name or not path.is_file():
                raise self.refused(f"{name} of this export is a link or no plain file")
            if path.stat().st_size > MAX_BYTES:
                raise self.refused(_too_large(name))
            return path.read_bytes()
        except OSError as error:
            what = f"{name} of this export cannot be read: {error.strerror or error}"
            raise self.refused(what) from error

    def _of_zip(self, entries: zipfile.ZipFile, name: str) -> bytes:
        try:
            with entries.open(name) as file:
                content = file.read(MAX_BYTES + 1)
        except KeyError:
            raise self.refused(f"{name} of this export is missing") from None
        except _BROKEN as error:
            raise self.refused(f"{name} of this export is damaged: {error}") from error
        if len(content) > MAX_BYTES:
            raise self.refused(_too_large(name))
        return content

    def refused(self, what: str) -> RunError:
        """The error that says why this is not imported."""
        return RunError(what, where=str(self.source), accepted=_WRITTEN, remedy=_AGAIN)

    def check(self, entries: zipfile.ZipFile) -> None:
        """Look at the list of a zip's files, none of which is read for it.

        Raises:
            RunError: for too many or too large files, and for names and kinds of files that no
                export has.
        """
        listed = entries.infolist()
        if len(listed) > MAX_FILES:
            what = f"this zip has {len(listed):,} files; at most {MAX_FILES:,} are read"
            raise self.refused(what)
        total, packed = sum(entry.file_size for entry in listed), self.source.stat().st_size
        if total > MAX_TOTAL or (total > _SMALL and total > MAX_RATIO * packed):
            raise self.refused(
                f"this zip of {packed:,} bytes would unpack to {total:,}; at most {MAX_TOTAL:,} "
                f"and {MAX_RATIO} times its size are read"
            )
        names = [entry.filename for entry in listed]
        for entry in listed:
            if wrong := _wrong(entry):
                raise self.refused(f"this zip has {shown(entry.filename)}, which is {wrong}")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise self.refused(f"this zip has {shown(twice)} twice")


@contextmanager
def opened(source: Path) -> Iterator[Archive]:
    """The export at `source`.

    Raises:
        RunError: if it is neither a folder nor a zip, or a zip that no export is.
    """
    if source.is_dir():
        yield Archive(source)
        return
    try:
        entries = zipfile.ZipFile(source)
    except (*_BROKEN, ValueError) as error:
        what = "this is no export: neither a folder nor a zip"
        raise Archive(source).refused(f"{what} ({error})") from error
    with entries:
        archive = Archive(source, entries)
        archive.check(entries)
        yield archive


def _too_large(name: str) -> str:
    return f"{name} of this export has more than {MAX_BYTES:,} bytes, which is too much"


def _wrong(entry: zipfile.ZipInfo) -> str:
    """The reason why no export has such an entry; empty for one that an export may have."""
    name, mode = entry.orig_filename, entry.external_attr >> 16
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or name[1:2] == ":":
        return "a path out of it"
    if not name or not name.isprintable():
        return "a name with control characters"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or a device"
    return ""
