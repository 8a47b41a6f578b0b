"""Boxes as x1, y1, x2, y2 in pixels: clipping, overlap, the merge of two localizers, pools."""

from __future__ import annotations

from collections.abc import Sequence

from vexp.dataset.base import Box

SMALLEST_PX = 1.0  # a box with a shorter side inside the image is none


def clip(box: Box, size: tuple[int, int]) -> Box | None:
    """The part of a box in an image of `size` (width, height); None if that is nearly nothing."""
    x1, y1, x2, y2 = box
    inside = (max(x1, 0.0), max(y1, 0.0), min(x2, float(size[0])), min(y2, float(size[1])))
    wide, high = inside[2] - inside[0], inside[3] - inside[1]
    return inside if wide >= SMALLEST_PX and high >= SMALLEST_PX else None


def area(box: Box) -> float:
    """Square pixels; 0 for a box that is turned inside out."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def iou(one: Box, other: Box) -> float:
    """Intersection over union, in [0, 1]."""
    common = area(
        (max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3]))
    )
    union = area(one) + area(other) - common
    return common / union if union > 0 else 0.0


def hull(one: Box, other: Box) -> Box:
    """The smallest box around both."""
    return (
        min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])
    )  # fmt: skip


def agree(one: Box, other: Box, agreement: float) -> bool:
    """Whether two localizers mean the same region: an IoU of at least `agreement`."""
    return iou(one, other) >= agreement


def distinct(boxes: Sequence[Box], duplicate: float) -> list[int]:
    """Which boxes stay when each one that overlaps an earlier one that stays, by at least the IoU
    `duplicate`, goes. Indices in order."""
    kept: list[int] = []
    for index, box in enumerate(boxes):
        if all(iou(box, boxes[other]) < duplicate for other in kept):
            kept.append(index)
    return kept


def tag_of(count: int) -> str:
    """The pool of an item with so many boxes: none, `single` or `multi` (EASE, appendix B.4)."""
    return "multi" if count > 1 else ("", "single")[count]
