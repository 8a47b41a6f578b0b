"""Rows of a local JSONL or Parquet file, by number, without holding more than is needed."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vexp.errors import DataError
from vexp.paths import expanded

SUFFIXES = (".jsonl", ".ndjson", ".parquet")


@dataclass(frozen=True)
class Stamp:
    """A file as it is now: a changed file has another stamp, so caches notice."""

    path: Path
    modified_ns: int
    bytes: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """The stamp of a file.

        Raises:
            DataError: if it does not exist, or is no JSONL or Parquet file by its name.
        """
        path = expanded(path)
        if not path.is_file():
            raise DataError(
                f"there is no file {str(path)!r}",
                where=str(path.absolute()),
                remedy="give a path relative to the folder you start vexp in, or an absolute one",
            )
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(
                f"{path.name!r} is neither JSONL nor Parquet by its name",
                where=str(path),
                accepted=f"a file that ends in {', '.join(SUFFIXES)}",
            )
        found = path.stat()
        return cls(path, found.st_mtime_ns, found.st_size)


class Rows(Protocol):
    """Rows numbered from 0."""

    columns: Sequence[str]

    def __len__(self) -> int: ...

    def row(self, number: int, columns: Iterable[str]) -> Mapping[str, Any]:
        """The named columns of a row; None for what it lacks.

        Raises:
            ValueError: if the row cannot be read.
        """

    def column(self, name: str) -> Sequence[Any]:
        """All values of a column, None where a row lacks it."""

    def head(self, count: int, columns: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        """The named columns of the first rows that can be read; nothing else is loaded."""

    def is_float32(self, name: str) -> bool:
        """True for a column of numbers in 32 bits or fewer."""

    def where(self, number: int) -> str:
        """File and place of a row, for messages."""

    def broken(self) -> Mapping[int, str]:
        """Rows that cannot be read, with the reason."""


@functools.lru_cache(maxsize=32)
def open_rows(stamp: Stamp) -> Rows:
    """The rows of a file.

    Raises:
        DataError: if the file as a whole cannot be read.
    """
    try:
        if stamp.path.suffix.lower() == ".parquet":
            return _Parquet(stamp.path)
        return _JsonLines(stamp.path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"the file cannot be read: {reason}", where=str(stamp.path)) from error


@functools.lru_cache(maxsize=64)
def file_hash(stamp: Stamp) -> str:
    """SHA-256 of the file's bytes."""
    with stamp.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _JsonLines:
    """One JSON object per line; blank lines are skipped. A line is read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[int] = []  # line number of each row, from 1
        self._offsets: list[int] = []
        self._broken: dict[int, str] = {}
        columns: dict[str, None] = {}
        offset = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    self._lines.append(number)
                    self._offsets.append(offset)
                    columns |= dict.fromkeys(self._parsed(len(self._lines) - 1, line))
                offset += len(line)
        self.columns: Sequence[str] = tuple(columns)

    def __len__(self) -> int:
        return len(self._lines)

    def row(self, number: int, columns: Iterable[str]) -> Mapping[str, Any]:
        with self._path.open("rb") as file:
            file.seek(self._offsets[number])
            found = _object(file.readline())
        return {name: found.get(name) for name in columns}

    def column(self, name: str) -> Sequence[Any]:
        with self._path.open("rb") as file:
            lines = (line for line in file if line.strip())
            return [
                None if number in self._broken else _object(line).get(name)
                for number, line in enumerate(lines)
            ]

    def head(self, count: int, columns: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        sound = (number for number in range(len(self)) if number not in self._broken)
        return [self.row(number, columns) for number in itertools.islice(sound, count)]

    def is_float32(self, name: str) -> bool:
        return False

    def where(self, number: int) -> str:
        return f"{self._path}, line {self._lines[number]}"

    def broken(self) -> Mapping[int, str]:
        return self._broken

    def _parsed(self, number: int, line: bytes) -> Mapping[str, Any]:
        try:
            return _object(line)
        except ValueError as error:
            self._broken[number] = str(error)
            return {}


def _object(line: bytes) -> dict[str, Any]:
    """The object on one line.

    Raises:
        ValueError: if it is not JSON, or not an object.
    """
    try:
        found = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError("this line is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f"this line is not valid JSON: {error.msg}, column {error.colno}"
        ) from error
    except RecursionError as error:
        raise ValueError("this line is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError(f"this line is a JSON {type(found).__name__}, not an object")
    return found


@dataclass
class _Parquet:
    """Columns are read when they are first asked for, and stay in memory (images as they are)."""

    path: Path
    columns: Sequence[str] = ()
    _loaded: dict[str, Any] = field(default_factory=dict)
    _count: int = 0

    def __post_init__(self) -> None:
        import pyarrow as arrow
        import pyarrow.parquet as parquet

        try:
            self._file = parquet.ParquetFile(self.path, memory_map=True)
        except arrow.ArrowException as error:
            raise DataError(
                f"this is not a Parquet file: {str(error).splitlines()[0]}", where=str(self.path)
            ) from error
        self.columns = tuple(self._file.schema_arrow.names)
        self._count = self._file.metadata.num_rows

    def __len__(self) -> int:
        return self._count

    def row(self, number: int, columns: Iterable[str]) -> Mapping[str, Any]:
        return {
            name: self._column(name)[number].as_py() if name in self.columns else None
            for name in columns
        }

    def column(self, name: str) -> Sequence[Any]:
        if name not in self.columns:
            return [None] * len(self)
        found: list[Any] = self._column(name).to_pylist()
        return found

    def head(self, count: int, columns: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        there = [name for name in columns if name in self.columns]
        with self._errors(", ".join(map(repr, there))):
            batch = next(self._file.iter_batches(count, columns=there), None)
        rows = batch.to_pylist() if batch is not None else []
        return [{name: row.get(name) for name in columns} for row in rows]

    def is_float32(self, name: str) -> bool:
        import pyarrow as arrow

        kind = self._file.schema_arrow.field(name).type if name in self.columns else None
        return kind in (arrow.float32(), arrow.float16())

    def where(self, number: int) -> str:
        return f"{self.path}, row {number} (from 0)"

    def broken(self) -> Mapping[int, str]:
        return {}

    def _column(self, name: str) -> Any:
        if name not in self._loaded:
            with self._errors(repr(name)):
                self._loaded[name] = self._file.read(columns=[name]).column(name)
        return self._loaded[name]

    @contextmanager
    def _errors(self, columns: str) -> Iterator[None]:
        import pyarrow as arrow

        try:
            yield
        except (OSError, arrow.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"column {columns} cannot be read: {reason}",
                where=str(self.path),
                remedy="the file is damaged; copy or write it again",
            ) from error
