"""Gaussian noise on every pixel."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vexp.config.types import Finite, NonNegative
from vexp.distortion._pixels import as_image
from vexp.distortion.base import Distortion
from vexp.registry import register

if TYPE_CHECKING:
    from numpy.random import Generator

    from vexp.dataset.base import Item


@register("distortion", "gaussian_noise")
@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Distortion):
    """x + N(mean, std^2), drawn for each pixel and channel, clipped to 0..255. From VICRA.

    Breaks for large, simple shapes: at std 200 most values are clipped, but the average over a
    token's pixels still tells dark from bright.
    """

    mean: Finite = 0.0  # of the noise; a pixel's values run from 0 to 255
    std: NonNegative = 200.0  # of the noise, in the same unit

    @property
    def random(self) -> bool:
        return True

    def apply(self, item: Item, noise: Generator) -> Item:
        if item.image is None:
            return item
        import numpy as np

        pixels = np.asarray(item.image, dtype=np.float64)
        noisy = pixels + noise.normal(self.mean, self.std, pixels.shape)
        return dataclasses.replace(item, image=as_image(noisy))
