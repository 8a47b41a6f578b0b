"""The image turned by a small random angle."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from vexp.config.types import Between, Neutral
from vexp.distortion.base import Distortion
from vexp.registry import register

if TYPE_CHECKING:
    from numpy.random import Generator

    from vexp.dataset.base import Item


@register("distortion", "rotate")
@dataclass(frozen=True, kw_only=True)
class Rotate(Distortion):
    """Turns the image by an angle drawn uniformly from -degrees to degrees, bilinear.

    Liu et al. 2025, "NoisyRollout" (arXiv 2504.13055). What comes in is black. The size is kept
    and corners are cut off; with `expand`, as in the released code, the image grows so that it
    holds them, and may then have more tokens.

    Breaks boxes: they are left where they were, and no longer fit the image. Questions about
    directions and angles change their answer.
    """

    degrees: Annotated[float, Between(0, 180)] = 15.0  # largest angle, either way
    expand: Annotated[bool, Neutral(False)] = False  # whether the image grows to hold its corners

    @property
    def random(self) -> bool:
        return True

    def at(self, strength: float) -> Rotate:
        return dataclasses.replace(self, degrees=self.degrees * strength)

    def apply(self, item: Item, noise: Generator) -> Item:
        if item.image is None:
            return item
        from PIL import Image

        angle = noise.uniform(-self.degrees, self.degrees)
        bilinear = Image.Resampling.BILINEAR
        turned = item.image.rotate(angle, resample=bilinear, expand=self.expand)
        return dataclasses.replace(item, image=turned)
