"""Placing and drawing coloured glyphs on a black image."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vexp.dataset._draws import Draws
from vexp.dataset._glyphs import pixels
from vexp.dataset.base import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

PALETTE = {
    "red": (235, 45, 45),
    "green": (60, 205, 75),
    "blue": (70, 115, 255),
    "yellow": (255, 225, 60),
    "purple": (185, 75, 225),
    "white": (240, 240, 240),
    "cyan": (60, 220, 230),
    "orange": (255, 140, 25),
}
TRIES = 100  # arrangements tried before the fallback
INKED = 64  # ink (of 255) from which a pixel belongs to the glyph's box


@dataclass(frozen=True)
class Place:
    """A square for one glyph: its left and upper edge and its side, in pixels."""

    x: int
    y: int
    side: int

    def overlaps(self, other: Place) -> bool:
        return (
            self.x < other.x + other.side
            and other.x < self.x + self.side
            and self.y < other.y + other.side
            and other.y < self.y + self.side
        )


@dataclass(frozen=True)
class Layout:
    """How glyphs are placed: a grid over the image, glyph sides and jitter, in pixels."""

    image_size: int
    grid: int
    glyph_min: int
    glyph_max: int
    jitter: int

    def places(self, count: int, draws: Draws) -> list[Place]:
        """`count` places that do not overlap, each in a cell of its own up to the jitter.

        Arrangements are drawn until one fits. If none of `TRIES` does, the smallest glyphs stand in
        the middles of their cells, which always fits.
        """
        for _ in range(TRIES):
            cells = draws.sample(range(self.grid**2), count)
            found = [self._place(cell, draws) for cell in cells]
            if not any(a.overlaps(b) for i, a in enumerate(found) for b in found[:i]):
                return found
        cells = draws.sample(range(self.grid**2), count)
        return [self._middle(cell, self.glyph_min) for cell in cells]

    def _place(self, cell: int, draws: Draws) -> Place:
        side = draws.between(self.glyph_min, self.glyph_max)
        middle = self._middle(cell, side)
        dx = draws.between(-self.jitter, self.jitter)
        dy = draws.between(-self.jitter, self.jitter)
        last = self.image_size - side
        return Place(min(max(middle.x + dx, 0), last), min(max(middle.y + dy, 0), last), side)

    def _middle(self, cell: int, side: int) -> Place:
        row, column = divmod(cell, self.grid)
        step = self.image_size // self.grid
        return Place(column * step + (step - side) // 2, row * step + (step - side) // 2, side)


def draw(
    size: int, glyphs: Sequence[int], colors: Sequence[str], places: Sequence[Place]
) -> tuple[Image, list[Box]]:
    """The image (size x size, RGB) and the tight box of each glyph's ink in pixels."""
    import PIL.Image

    canvas = np.zeros((size, size, 3), dtype=np.uint8)
    boxes: list[Box] = []
    for glyph, color, place in zip(glyphs, colors, places, strict=True):
        ink = _scaled(glyph, place.side)
        painted = ink[:, :, None].astype(np.uint16) * np.array(PALETTE[color], np.uint16) // 255
        rows = slice(place.y, place.y + place.side)
        columns = slice(place.x, place.x + place.side)
        canvas[rows, columns] = painted.astype(np.uint8)
        left, upper, right, lower = _extent(glyph, place.side)
        boxes.append((place.x + left, place.y + upper, place.x + right, place.y + lower))
    return PIL.Image.fromarray(canvas), boxes


@functools.lru_cache(maxsize=2048)
def _scaled(glyph: int, side: int) -> NDArray[np.uint8]:  # [side, side]
    import PIL.Image

    small = PIL.Image.fromarray(pixels(glyph))
    return np.asarray(small.resize((side, side), PIL.Image.Resampling.BICUBIC))


@functools.lru_cache(maxsize=4096)
def _extent(glyph: int, side: int) -> tuple[float, float, float, float]:
    """Left, upper, right and lower edge of the ink within the glyph's square."""
    inked = _scaled(glyph, side) >= INKED
    rows, columns = np.flatnonzero(inked.any(1)), np.flatnonzero(inked.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
