"""A black image of the same size."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vexp.distortion.base import Distortion
from vexp.registry import register

if TYPE_CHECKING:
    from numpy.random import Generator

    from vexp.dataset.base import Item


@register("distortion", "black")
@dataclass(frozen=True, kw_only=True)
class Black(Distortion):
    """Every pixel black, the size kept, so that all positions of the prompt stay. From VICRA.

    VICRA speaks of blackening within a masked region and defines none; here it is the whole image.

    Breaks little, but black is something to see: a model may answer that the image is black.
    """

    def apply(self, item: Item, noise: Generator) -> Item:
        if item.image is None:
            return item
        from PIL import Image

        return dataclasses.replace(item, image=Image.new(item.image.mode, item.image.size))
