"""MMK12 (MM-Eureka, arXiv:2503.07365), as FanqingM/MMK12 publishes it.

    data/train-*.parquet, test-*.parquet   id, question, answer, image; also subject

Images lie within the Parquet files, which may also name files of the folder. It has no boxes. The
test split is multiple choice.
"""

from __future__ import annotations

from collections.abc import Iterator

from vexp.dataset.layouts._folder import Folder, split_of
from vexp.dataset.layouts._row import DatasetRow, LeftOut, unboxed, with_image


def rows(folder: Folder) -> Iterator[DatasetRow | LeftOut]:
    """The rows of both splits; an id is unique within its split only."""
    columns = ("id", "question", "answer", "image")
    for path, _, cells in folder.parquet("data/*.parquet", columns):
        split = split_of(path)
        yield with_image(
            split,
            f"{split}/{cells['id']}",
            cells["question"],
            unboxed(cells["answer"]),
            cells["image"],
            folder.path,
            path.parent,
        )
