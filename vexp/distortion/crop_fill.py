"""A random rectangle of the image black."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vexp.config.types import Fraction
from vexp.distortion.base import Distortion
from vexp.registry import register

if TYPE_CHECKING:
    from numpy.random import Generator

    from vexp.dataset.base import Item


@register("distortion", "crop_fill")
@dataclass(frozen=True, kw_only=True)
class CropFill(Distortion):
    """Blackens a rectangle of `side` times the image's width and height, anywhere within it.

    Liu et al. 2025, "NoisyRollout" (arXiv 2504.13055), an alternative to noise in the released
    code (`aug_type=crop_fill`), whose `crop_size` is 0 unless it is set: the default here is ours.
    Sides are rounded down to pixels, and every place that fits is as likely.

    Breaks questions whose evidence lies in the rectangle, and leaves all others as they were.
    """

    side: Fraction = 0.5  # of the rectangle, as a share of the image's side

    @property
    def random(self) -> bool:
        return True

    def at(self, strength: float) -> CropFill:
        return dataclasses.replace(self, side=self.side * strength)

    def apply(self, item: Item, noise: Generator) -> Item:
        if item.image is None:
            return item
        import numpy as np
        from PIL import Image

        pixels = np.array(item.image)
        sizes = [int(length * self.side) for length in pixels.shape[:2]]
        starts = [
            int(noise.integers(0, length - size, endpoint=True))
            for length, size in zip(pixels.shape[:2], sizes, strict=True)
        ]
        rows, columns = (slice(a, a + size) for a, size in zip(starts, sizes, strict=True))
        pixels[rows, columns] = 0
        return dataclasses.replace(item, image=Image.fromarray(pixels))
