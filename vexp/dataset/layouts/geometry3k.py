"""Geometry3K (arXiv:2105.04165), as hiyouga/geometry3k publishes it for RL.

    data/train-*.parquet, validation-*.parquet, test-*.parquet   images, problem, answer

Images lie within the Parquet files, which may also name files of the folder. It has no boxes.
"""

from __future__ import annotations

from collections.abc import Iterator

from vexp.dataset.layouts._folder import Folder, split_of
from vexp.dataset.layouts._row import DatasetRow, LeftOut, unboxed, with_image


def rows(folder: Folder) -> Iterator[DatasetRow | LeftOut]:
    """The rows of each split, numbered within its files."""
    for path, number, cells in folder.parquet("data/*.parquet", ("images", "problem", "answer")):
        yield with_image(
            split_of(path),
            f"{path.stem}/{number}",
            cells["problem"],
            unboxed(cells["answer"]),
            cells["images"],
            folder.path,
            path.parent,
        )
