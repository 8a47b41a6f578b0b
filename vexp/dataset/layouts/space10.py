"""SpaCE-10 (arXiv:2506.07966), as Cusyoung/SpaCE-10 publishes it.

    single-choice/*/*.parquet   index, question, answer (a letter), A, B, C, …, image

Images lie within the Parquet files; questions about several are left out. It has no boxes. It is
published as a benchmark, and EASE trains on it; so its rows are for training here. Do not then
report its score.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vexp.dataset.layouts._folder import Folder
from vexp.dataset.layouts._row import LeftOut, Row, plain

_LETTERS = tuple("ABCDEF")


def rows(folder: Folder) -> Iterator[Row | LeftOut]:
    """The rows of all kinds of question, with their options below the question."""
    columns = ("index", "question", "answer", "image", "A", "B")
    for path, _, cells in folder.parquet("single-choice/*/*.parquet", columns, _LETTERS[2:]):
        item, images = f"{path.parent.name}/{cells['index']}", _images(cells["image"])
        if len(images) != 1:
            yield LeftOut(item, "it has several images" if images else "it has no image")
            continue
        options = [
            f"{letter}. {cells[letter]}"
            for letter in _LETTERS
            if cells.get(letter) not in (None, "", "nan")
        ]
        question = "\n".join([plain(cells["question"]), *options])
        yield Row("train", item, question, str(cells["answer"] or "").strip(), images[0])


def _images(cell: Any) -> list[bytes]:
    """The bytes of one image or of several, as such or as Hugging Face writes them."""
    found = cell if isinstance(cell, list) else [cell]
    images = [part["bytes"] if isinstance(part, dict) else part for part in found]
    return [image for image in images if image]
