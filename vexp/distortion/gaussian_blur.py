"""The image blurred."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vexp.config.types import NonNegative
from vexp.distortion.base import Distortion
from vexp.registry import register

if TYPE_CHECKING:
    from numpy.random import Generator

    from vexp.dataset.base import Item


@register("distortion", "gaussian_blur")
@dataclass(frozen=True, kw_only=True)
class GaussianBlur(Distortion):
    """Convolution with a Gaussian of standard deviation `radius`, as Pillow has it. From VICRA.

    Breaks for what is larger than the radius: colours and layout survive, only detail is lost. The
    radius does not grow with the image.
    """

    radius: NonNegative = 5.0  # standard deviation of the kernel in pixels of the item's own image

    def apply(self, item: Item, noise: Generator) -> Item:
        if item.image is None:
            return item
        from PIL import ImageFilter

        blurred = item.image.filter(ImageFilter.GaussianBlur(self.radius))
        return dataclasses.replace(item, image=blurred)
