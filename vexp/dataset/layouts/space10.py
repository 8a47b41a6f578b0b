"""SpaCE-10 (arXiv:2506.07966), as Cusyoung/SpaCE-10 publishes it.

    single-choice/*/*.parquet   index, question, answer (a letter), A, B, C, …, image

Images lie within the Parquet files; questions about several are left out. It has no boxes. It is
published as a benchmark, and EASE trains on it; so its rows are for training here. Do not then
report its score.
"""

from __future__ import annotations

from collections.abc import Iterator

from vexp.dataset.layouts._folder import Folder
from vexp.dataset.layouts._row import DatasetRow, LeftOut, spoken, with_image

_LETTERS = tuple("ABCDEF")


def rows(folder: Folder) -> Iterator[DatasetRow | LeftOut]:
    """The rows of all kinds of question, with their options below the question."""
    columns = ("index", "question", "answer", "image", "A", "B")
    for path, _, cells in folder.parquet("single-choice/*/*.parquet", columns, _LETTERS[2:]):
        item = f"{path.parent.name}/{cells['index']}"
        options = [
            f"{letter}. {cells[letter]}"
            for letter in _LETTERS
            if cells.get(letter) not in (None, "", "nan")
        ]
        question = "\n".join([str(cells["question"] or "").strip(), *options])
        answer = spoken(cells["answer"])
        yield with_image("train", item, question, answer, cells["image"], folder.path, path.parent)
