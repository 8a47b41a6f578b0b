"""The folder that a dataset was downloaded to: its files by name, and what is missing of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vexp.dataset.base import Split
from vexp.errors import DataError, suggest
from vexp.paths import expanded

_SPLITS: dict[str, Split] = {"train": "train", "validation": "dev", "val": "dev", "test": "test"}
_BATCH = 256  # rows of a Parquet file in memory at a time; each may hold an image


@dataclass(frozen=True)
class Folder:
    """Where the files of a layout lie."""

    layout: str
    path: Path

    def __post_init__(self) -> None:
        path = expanded(self.path).absolute()
        if not path.is_dir():
            raise DataError("there is no such folder", where=str(path), remedy=self._remedy)
        object.__setattr__(self, "path", path)

    def file(self, *candidates: str) -> Path:
        """The first of the files, relative to the folder, that exists.

        Raises:
            DataError: if none does.
        """
        for name in candidates:
            if (found := self.path / name).exists():
                return found
        there = sorted(path.name for path in self.path.iterdir())
        raise DataError(
            f"there is no {' or '.join(candidates)}",
            where=str(self.path),
            accepted=suggest(candidates[0], there, noun="files here"),
            remedy=self._remedy,
        )

    def json(self, *candidates: str, key: str = "") -> Any:
        """The content of a JSON file, or of one key of it.

        Raises:
            DataError: if the file is missing or no JSON, or lacks the key.
        """
        path = self.file(*candidates)
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, OSError) as error:
            raise DataError(
                f"this file cannot be read as JSON: {error}", where=str(path)
            ) from error
        if not key:
            return content
        if not isinstance(content, dict) or key not in content:
            there = list(content) if isinstance(content, dict) else []
            raise DataError(
                f"there is no {key!r} in this file",
                where=str(path),
                accepted=suggest(key, there, noun="keys"),
                remedy=self._remedy,
            )
        return content[key]

    def parquet(
        self, pattern: str, columns: Sequence[str], optional: Sequence[str] = ()
    ) -> Iterator[tuple[Path, int, dict[str, Any]]]:
        """File, number and cells of each row of the Parquet files that match.

        Raises:
            DataError: if there is no file, a file is damaged, or one lacks a column.
        """
        import pyarrow as arrow
        import pyarrow.parquet as parquet

        files = sorted(self.path.glob(pattern))
        if not files:
            self.file(pattern)
        for path in files:
            try:
                file = parquet.ParquetFile(path, memory_map=True)
                there = list(file.schema_arrow.names)
                self._check_columns(path, columns, there)
                wanted = [*columns, *(name for name in optional if name in there)]
                number = 0
                for batch in file.iter_batches(_BATCH, columns=wanted):
                    for cells in batch.to_pylist():
                        yield path, number, cells
                        number += 1
            except arrow.ArrowException as error:
                reason = str(error).splitlines()[0]
                raise DataError(f"this file cannot be read: {reason}", where=str(path)) from error

    def _check_columns(self, path: Path, columns: Sequence[str], there: Sequence[str]) -> None:
        lacking = [name for name in columns if name not in there]
        if lacking:
            raise DataError(
                f"there is no column {', '.join(map(repr, lacking))}",
                where=str(path),
                accepted=suggest(lacking[0], there, noun="columns"),
                remedy=self._remedy,
            )

    @property
    def _remedy(self) -> str:
        return f"`vexp convert {self.layout}` says what the folder has to hold"


def split_of(path: Path) -> Split:
    """The split that a file is named after, e.g. train-00000-of-00002.parquet."""
    return _SPLITS.get(path.name.partition("-")[0].partition(".")[0], "train")


def field(record: Mapping[str, Any], name: str, where: Path) -> Any:
    """A value of a JSON record.

    Raises:
        DataError: if the record does not have it: then the file has another layout.
    """
    if name not in record:
        raise DataError(
            f"a record has no {name!r}",
            where=str(where),
            accepted=suggest(name, record, noun="keys"),
        )
    return record[name]
