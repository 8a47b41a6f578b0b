"""Reading and checking evidence boxes.

The frame is always stated, never guessed: a rounded normalised coordinate of 1.002, taken for
pixels, silently becomes a box of a few pixels in the corner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from vexp.dataset.base import Box

BoxFormat = Literal["xyxy_px", "xyxy_norm"]
BadBoxesAre = Literal["refused", "dropped"]
ROUNDING_PX = 1.0  # a box may reach this far out of the image; it is cut back silently
ROUNDING_NORM = 0.01


class BadBoxes(ValueError):
    """Boxes that cannot be used; the message says why, the caller knows where."""


def read_boxes(
    cell: Any,
    box_format: BoxFormat,
    size: tuple[int, int] | None,
    bad_boxes: BadBoxesAre = "refused",
) -> tuple[Box, ...]:
    """Boxes in pixels of an image of `size` (width, height), cut to the image.

    A cell is a list of [x1, y1, x2, y2], or one such box; empty or None for none. Where bad boxes
    are "dropped", those that reach out of the image or have no area come uncut: whoever uses them
    cuts them, drops what has no area in the image, and counts it (vexp.experience.evidence).

    Raises:
        BadBoxes: for anything that is not a box with an area inside the image, in the stated frame;
            with "dropped", for what is no box at all or plainly in the other frame.
    """
    boxes = _lists(cell)
    if not boxes:
        return ()
    if size is None:
        raise BadBoxes("there are boxes but no image")
    return tuple(_box(box, box_format, size, bad_boxes) for box in boxes)


def _lists(cell: Any) -> list[Sequence[Any]]:
    if cell is None:
        return []
    if not isinstance(cell, list | tuple):
        raise BadBoxes(f"expected a list of boxes, got a {type(cell).__name__}")
    if cell and not any(isinstance(part, list | tuple) for part in cell):
        return [cell]
    return list(cell)


def has_area(box: Box, size: tuple[int, int]) -> bool:
    """Whether something of the box lies in an image of `size` (width, height)."""
    x1, y1, x2, y2 = box
    return max(x1, 0.0) < min(x2, size[0]) and max(y1, 0.0) < min(y2, size[1])


def _box(box: Any, box_format: BoxFormat, size: tuple[int, int], bad_boxes: BadBoxesAre) -> Box:
    if not isinstance(box, list | tuple) or len(box) != 4:
        raise BadBoxes(f"box {box!r} has to be four numbers: x1, y1, x2, y2")
    if any(isinstance(x, bool) or not isinstance(x, int | float) for x in box):
        raise BadBoxes(f"box {list(box)} has a coordinate that is not a number")
    x1, y1, x2, y2 = (float(x) for x in box)
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        raise BadBoxes(f"box {list(box)} has a coordinate that is not finite")
    if bad_boxes == "refused" and (x2 <= x1 or y2 <= y1):
        raise BadBoxes(f"box {list(box)} has no area; the order is x1, y1, x2, y2")
    _check_frame(box, box_format, size)
    if bad_boxes == "refused":
        _check_place(box, box_format, size)
    width, height = size
    if box_format == "xyxy_norm":
        x1, y1, x2, y2 = x1 * width, y1 * height, x2 * width, y2 * height
    if bad_boxes == "dropped":
        return x1, y1, x2, y2
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))


def _check_frame(box: Sequence[float], box_format: BoxFormat, size: tuple[int, int]) -> None:
    width, height = size
    shown = list(box)
    if box_format == "xyxy_px" and max(box) <= 1 + ROUNDING_NORM and min(size) > 4:
        raise BadBoxes(
            f"box {shown} looks normalised, but box_format is xyxy_px "
            f"(the image is {width} x {height})"
        )
    if box_format == "xyxy_norm" and max(box) > 2:
        raise BadBoxes(f"box {shown} looks like pixels, but box_format is xyxy_norm")


def _check_place(box: Sequence[float], box_format: BoxFormat, size: tuple[int, int]) -> None:
    width, height = size
    shown = list(box)
    right, lower = (width, height) if box_format == "xyxy_px" else (1, 1)
    slack = ROUNDING_PX if box_format == "xyxy_px" else ROUNDING_NORM
    inside = box[0] < right and box[1] < lower and box[2] > 0 and box[3] > 0
    near = min(box[:2]) >= -slack and box[2] <= right + slack and box[3] <= lower + slack
    if not (inside and near):
        unit = f"{width} x {height} pixels" if box_format == "xyxy_px" else "0 to 1"
        raise BadBoxes(f"box {shown} reaches out of the image ({unit})")
