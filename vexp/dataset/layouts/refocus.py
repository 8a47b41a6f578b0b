"""ReFocus (arXiv:2501.05452), as ReFocus/ReFocus_Data publishes it.

    data/train-*.parquet, val-*.parquet, test-*.parquet   id, question, answer, image,
                                                          focus_areas_bbox (x1, y1, x2, y2; pixels)

Images lie within the Parquet files, which may also name files of the folder. The boxes are the
areas of a chart or table that its authors' edits point to; rows without any are kept, untagged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vexp.dataset.layouts._folder import Folder, split_of
from vexp.dataset.layouts._row import DatasetRow, LeftOut, unboxed, with_image

_SIDES = ("x1", "y1", "x2", "y2")


def rows(folder: Folder) -> Iterator[DatasetRow | LeftOut]:
    """The rows of each split; an id is unique within its split only."""
    columns = ("id", "question", "answer", "image", "focus_areas_bbox")
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
            boxes=_boxes(cells["focus_areas_bbox"]),
        )


def _boxes(cell: Any) -> list[list[float]]:
    """Boxes from one list per side, as Hugging Face stores a sequence of boxes, or box by box."""
    if isinstance(cell, dict):
        sides = [cell.get(side) or [] for side in _SIDES]
        return [[float(value) for value in box] for box in zip(*sides, strict=True)]
    return [[float(box[side]) for side in _SIDES] for box in cell or ()]
