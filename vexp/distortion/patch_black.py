"""Random square patches of the image black."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vexp.config.types import Fraction, PositiveInt
from vexp.distortion.base import Distortion
from vexp.registry import register

if TYPE_CHECKING:
    from numpy.random import Generator

    from vexp.dataset.base import Item


@register("distortion", "patch_black")
@dataclass(frozen=True, kw_only=True)
class PatchBlack(Distortion):
    """Each patch of a grid over the image is black with probability `mask_ratio`.

    Wang et al. 2025, "PAPO" (arXiv 2507.06448): 0.6, one mask for all rollouts of a
    prompt. VPPO (arXiv 2510.09285): 0.5, a mask for each rollout. VICRA: 0.6. Patches are counted
    from the upper left corner in pixels of the item's own image; those at the right and lower edge
    may be cut.

    Breaks where the evidence is larger than a few patches: what shows through the gaps is enough.
    An image that the processor scales up has patches of several tokens, one scaled down several
    patches in a token.
    """

    patch_size: PositiveInt = 14  # side of a patch in pixels
    mask_ratio: Fraction = 0.6  # probability that a patch is black
    per: Literal["prompt", "rollout"] = "prompt"  # what shares one mask

    @property
    def random(self) -> bool:
        return True

    @property
    def per_rollout(self) -> bool:
        return self.per == "rollout"

    def apply(self, item: Item, noise: Generator) -> Item:
        if item.image is None:
            return item
        import numpy as np
        from PIL import Image

        pixels = np.array(item.image)
        height, width = pixels.shape[:2]
        side = self.patch_size
        masked = noise.random((-(-height // side), -(-width // side))) < self.mask_ratio
        pixels[masked.repeat(side, axis=0).repeat(side, axis=1)[:height, :width]] = 0
        return dataclasses.replace(item, image=Image.fromarray(pixels))
