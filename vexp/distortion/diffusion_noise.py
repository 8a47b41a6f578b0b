"""The noise of a diffusion model's forward process."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from vexp.config.types import Between
from vexp.distortion._pixels import as_image
from vexp.distortion.base import Distortion
from vexp.registry import register

if TYPE_CHECKING:
    from numpy.random import Generator

    from vexp.dataset.base import Item

STEPS = 1000  # of the forward process


@register("distortion", "diffusion_noise")
@dataclass(frozen=True, kw_only=True)
class DiffusionNoise(Distortion):
    """sqrt(a) x + sqrt(1 - a) N(0, 1), for x in 0..1, clipped; a falls with the step.

    Liu et al. 2025, "NoisyRollout" (arXiv 2504.13055): a is the product of 1 - beta up to and
    including `step`, beta = 1e-5 + (5e-3 - 1e-5) sigmoid(u) with u from -6 to 6 in 1000 steps.

    Breaks annealing to nothing: step 0 still adds noise, with a standard deviation of 0.005.
    """

    step: Annotated[int, Between(0, STEPS - 1)] = 500  # of the forward process; more is noisier

    @property
    def random(self) -> bool:
        return True

    def at(self, strength: float) -> DiffusionNoise:
        return dataclasses.replace(self, step=int(self.step * strength))

    def apply(self, item: Item, noise: Generator) -> Item:
        if item.image is None:
            return item
        import numpy as np

        pixels = np.asarray(item.image, dtype=np.float64) / 255
        kept = signal_share(self.step)
        noisy = math.sqrt(kept) * pixels + math.sqrt(1 - kept) * noise.standard_normal(pixels.shape)
        return dataclasses.replace(item, image=as_image(255 * noisy))


def signal_share(step: int) -> float:
    """The share of the variance that is still the image's after `step` + 1 steps."""
    import numpy as np

    betas = 1e-5 + (5e-3 - 1e-5) / (1 + np.exp(-np.linspace(-6, 6, STEPS)))
    return float(np.prod(1 - betas[: step + 1]))
