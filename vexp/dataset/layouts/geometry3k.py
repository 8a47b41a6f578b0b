"""Geometry3K (arXiv:2105.04165), as hiyouga/geometry3k publishes it for RL.

    data/train-*.parquet, validation-*.parquet, test-*.parquet   images, problem, answer

Images lie within the Parquet files. It has no boxes.
"""

from __future__ import annotations

from collections.abc import Iterator

from vexp.dataset.layouts._folder import Folder, split_of
from vexp.dataset.layouts._row import LeftOut, Row, plain, unboxed


def rows(folder: Folder) -> Iterator[Row | LeftOut]:
    """The rows of each split, numbered within its files."""
    for path, number, cells in folder.parquet("data/*.parquet", ("images", "problem", "answer")):
        item, images = f"{path.stem}/{number}", cells["images"] or []
        if len(images) > 1:
            yield LeftOut(item, "it has several images")
            continue
        yield Row(
            split_of(path),
            item,
            plain(cells["problem"]),
            unboxed(cells["answer"]),
            images[0]["bytes"] if images else None,
        )
