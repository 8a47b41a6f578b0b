"""ZwZ-RL-VQA (Zooming without Zooming, arXiv:2602.11858), as inclusionAI publishes it.

    train*.parquet     problem, answer, bbox (pixels), original_images (a list of one path)
    original_images/   the unpacked images without marks

The images in `images/` have the evidence boxes drawn in and are not used; the sentence of a problem
that points to them is removed. EASE trains on 74,000 of the rows; which ones is not published.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from vexp.dataset.layouts._folder import Folder
from vexp.dataset.layouts._row import DatasetRow, LeftOut, pictures, plain, unboxed

_POINTER = re.compile(r"[^.?!\n]*\bred bounding box\b[^.?!\n]*[.?!]?\s*", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def rows(folder: Folder) -> Iterator[DatasetRow | LeftOut]:
    """The rows of all files; all are for training."""
    columns = ("problem", "answer", "bbox", "original_images")
    for path, number, cells in folder.parquet("train*.parquet", columns):
        item = f"{path.stem}/{number}"
        images = pictures(cells["original_images"], folder.path)
        box = _box(cells["bbox"])
        if len(images) != 1 or len(box) != 4:
            yield LeftOut(item, "it has not one image and one box")
            continue
        question = _POINTER.sub("", plain(cells["problem"])).strip()
        yield DatasetRow("train", item, question, unboxed(cells["answer"]), images[0], (box,))


def _box(cell: Any) -> list[float]:
    """x1, y1, x2, y2 in pixels, from a list or from text such as (10.0,20.0,30.0,40.0)."""
    if isinstance(cell, str):
        return [float(number) for number in _NUMBER.findall(cell)]
    return [float(number) for number in cell or ()]
