"""Boxes of a whole table: signs that they are not x1, y1, x2, y2 in the unit that is set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vexp.dataset._boxes import ROUNDING_PX
from vexp.dataset.base import Box

MANY = 10  # boxes from which a share of them says something
SHARE = 0.2  # of many boxes, or
HALF = 0.5  # of few
FAR = 1.1  # sides of the image; a box in the right unit hardly ever ends behind it
LARGE_PX = 1200  # an image on which boxes in pixels are expected beyond 1000


@dataclass
class Frames:
    """What all boxes of a table, in pixels of their images, have in common."""

    boxes: int = 0
    far: int = 0  # reach out of the image by more than a tenth of its side
    out: int = 0  # reach out of it by more than a pixel
    without_area: int = 0  # end before they begin
    as_sizes: int = 0  # fit the image if the last two numbers are width and height
    large: int = 0  # on large images
    highest: float = 0.0  # coordinate

    def add(self, boxes: Sequence[Box], size: tuple[int, int]) -> None:
        """Count the boxes of one image of `size` (width, height)."""
        width, height = size
        for x1, y1, x2, y2 in boxes:
            self.boxes += 1
            self.far += x2 > FAR * width or y2 > FAR * height
            self.out += (
                x2 > width + ROUNDING_PX or y2 > height + ROUNDING_PX or min(x1, y1) < -ROUNDING_PX
            )
            self.without_area += x2 <= x1 or y2 <= y1
            self.as_sizes += x1 + x2 <= width + ROUNDING_PX and y1 + y2 <= height + ROUNDING_PX
            self.large += min(size) >= LARGE_PX
            self.highest = max(self.highest, x2, y2)

    def problems(self, *, in_pixels: bool) -> Iterator[tuple[str, str]]:
        """What is wrong with the table's boxes as a whole, and what to do.

        `in_pixels` is whether the table has them in pixels, not in shares of the image.
        """
        if self._are_many(self.without_area) and self.as_sizes == self.boxes:
            yield (
                f"{self.without_area:,} of {self.boxes:,} boxes end before they begin: they look "
                "like x, y, width, height",
                "write x1, y1, x2, y2: add x to the width and y to the height",
            )
        elif self._are_many(self.far):
            what = f"{self.far:,} of {self.boxes:,} boxes reach far out of their image"
            if in_pixels and self.highest <= 1000:
                yield (
                    f"{what}: they look like thousandths of its sides",
                    "divide them by 1000 and set box_format: xyxy_norm",
                )
            else:
                unit = "pixels of larger images" if in_pixels else "no shares of its sides"
                yield f"{what}: they look like {unit}", "scale them to the table's images"

    def notes(self) -> Iterator[str]:
        """What may be meant otherwise, and what is cut."""
        if self.large >= MANY and 0 < self.highest <= 1000:
            yield (
                f"all {self.boxes:,} boxes lie within 0 to 1000, also on images of {LARGE_PX} "
                "pixels and more: if they are thousandths of the sides, divide them by 1000 and "
                "set box_format: xyxy_norm"
            )

    def _are_many(self, count: int) -> bool:
        return count >= HALF * self.boxes > 0 or (
            self.boxes >= MANY and count >= SHARE * self.boxes
        )
