"""What an annotation has paid for: every answer and every finished item, one JSON line each.

A line is written when it is known, and each stands for itself: after a SIGKILL or a power cut at
most the last one is torn, and is passed over. Two threads never ask the same thing.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vexp.files import append_line, storage_errors


class AnnotationJournal:
    """Answers by the key of their question, and finished items by what decides them."""

    def __init__(self, path: Path) -> None:
        """Open or begin a journal.

        Raises:
            StorageError: if it cannot be written.
        """
        self.path = path
        self._answers: dict[str, Any] = {}
        self._items: dict[tuple[str, int], dict[str, Any]] = {}
        self._writing = threading.Lock()
        self._asking: dict[str, threading.Lock] = {}
        self.damaged = 0  # lines that were passed over
        self._read()

    def once(self, key: str, find: Callable[[], Any], **about: Any) -> Any:
        """What `find` gave for this key, now or before; plain data.

        `about` is written beside it, for whoever reads the file.
        """
        with self._writing:
            if key in self._answers:
                return self._answers[key]
            mine = self._asking.setdefault(key, threading.Lock())
        with mine:
            if key not in self._answers:
                self._add({"key": key, "answer": find(), **about})
            return self._answers[key]

    def finish(self, identity: str, index: int, row: Mapping[str, Any]) -> None:
        """Keep what became of an item; `identity` stands for the settings and the data."""
        self._add({"identity": identity, "index": index, "item": dict(row)})

    def finished(self, identity: str) -> dict[int, dict[str, Any]]:
        """What became of items so far, by index."""
        with self._writing:
            return {i: row for (name, i), row in self._items.items() if name == identity}

    def answers(self) -> list[Any]:
        """All answers, in no order."""
        with self._writing:
            return list(self._answers.values())

    def _add(self, row: dict[str, Any]) -> None:
        with self._writing:
            append_line(self.path, row)
            self._take(row)

    def _take(self, row: Mapping[str, Any]) -> None:
        if "key" in row:
            self._answers[row["key"]] = row["answer"]
        else:
            self._items[row["identity"], row["index"]] = row["item"]

    def _read(self) -> None:
        for row in _rows(self.path):
            try:
                self._take(row)
            except (LookupError, TypeError):
                self.damaged += 1
        with storage_errors(self.path), self.path.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":  # what follows must not be glued to a torn line
                    file.write(b"\n")


def finished_in(path: Path, identity: str) -> dict[int, dict[str, Any]]:
    """The finished items of a journal that may not exist; it is not touched."""
    found: dict[int, dict[str, Any]] = {}
    for row in _rows(path):
        if isinstance(row, dict) and row.get("identity") == identity:
            found[row["index"]] = row["item"]
    return found


def _rows(path: Path) -> Iterator[Any]:
    """What each line holds; None for one that is damaged."""
    with storage_errors(path):
        content = path.read_bytes() if path.exists() else b""
    for line in content.split(b"\n"):
        if line:
            try:
                yield json.loads(line)
            except ValueError:
                yield None
