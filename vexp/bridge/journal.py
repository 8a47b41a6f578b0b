"""Responses as they are generated, so that an evaluation that was killed generates none twice."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vexp.errors import RunError, StorageError
from vexp.files import read_lines, storage_errors, write_text

Key = tuple[str, str, int]  # task, document, seed of the draws


@dataclass(frozen=True)
class Response:
    """One answer, whole."""

    task: str
    document: str
    seed: int
    question: str  # hash of the question's text
    text: str
    tokens: int
    truncated: bool

    @property
    def key(self) -> Key:
        return self.task, self.document, self.seed


class Journal:
    """A file of JSON lines: what all of its responses depend on, then the responses.

    Raises:
        RunError: the file is of other weights or other settings.
    """

    def __init__(self, path: Path | None, about: Mapping[str, Any]) -> None:
        self._path = path
        self._found: dict[Key, Response] = {}
        self.known = 0  # responses that were there at the beginning
        if path is None:
            return
        rows, damaged = read_lines(path)
        plain = json.loads(json.dumps(dict(about)))
        if rows and rows[0] != plain:
            differs = sorted(
                k for k in rows[0].keys() | plain.keys() if rows[0].get(k) != plain.get(k)
            )
            raise RunError(
                f"these responses are of another model or other settings: {', '.join(differs)}",
                where=str(path),
                remedy="give each checkpoint and each setting a journal of its own",
            )
        for row in rows[1:]:
            response = Response(**row)
            self._found[response.key] = response
        self.known = len(self._found)
        if damaged is not None or not rows or not path.read_bytes().endswith(b"\n"):
            # the last write was cut off
            write_text(
                path, "".join(_line(row) for row in [plain, *map(asdict, self._found.values())])
            )

    def get(self, key: Key, question: str) -> Response | None:
        """The response to this question, if it is there.

        Raises:
            RunError: there is one, and it is to another question: the data have changed.
        """
        found = self._found.get(key)
        if found is not None and found.question != question:
            raise RunError(
                f"question {key[1]} of {key[0]} is another one than when it was answered",
                where=str(self._path),
                remedy="the benchmark's files have changed: delete this file to ask all again",
            )
        return found

    def found(self, key: Key) -> Response | None:
        """The response under this key, if it is there."""
        return self._found.get(key)

    def add(self, responses: Sequence[Response]) -> None:
        """Keep a batch: in one write, so that it is there as a whole or not at all."""
        if self._path is not None and responses:
            text = "".join(_line(asdict(response)) for response in responses)
            with storage_errors(self._path):
                if not self._path.is_file():
                    raise StorageError("the journal of responses is gone", where=str(self._path))
                with self._path.open("ab", buffering=0) as file:
                    file.write(text.encode("utf-8"))
        for response in responses:
            self._found[response.key] = response


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
