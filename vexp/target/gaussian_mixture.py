"""A Gaussian on each evidence box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vexp.config.types import Fraction, NonNegative, Positive
from vexp.registry import register
from vexp.target.base import Target

if TYPE_CHECKING:
    from torch import Tensor

    from vexp.dataset.base import Box

NARROWEST = 1e-6  # standard deviation in tokens; far below one, so that nothing depends on it


@register("target", "gaussian_mixture")
@dataclass(frozen=True, kw_only=True)
class GaussianMixture(Target):
    """The mean of a Gaussian for each box, mixed with the uniform distribution: EASE's target.

    q(v) = (1 - alpha) / K sum_k q_k(v) + alpha / V, with q_k(v) proportional to N(u_v; mu_k, S_k)
    at the token's centre u_v and normalised over the V tokens of the image; mu_k is the centre of
    box k of K, S_k diagonal with the standard deviations `sigma_scale` times the box's width and
    height (EASE, eq. 1: half a box is two of them, so 0.25).

    Breaks for boxes smaller than a token: without `sigma_floor`, all of q_k is on the token nearest
    to the box's centre. With `smoothing` 0 the target underflows to 0 far from the boxes, and its
    logarithm has to be floored.
    """

    sigma_scale: Positive = 0.25  # standard deviation as a share of the box's side
    smoothing: Fraction = 0.1  # alpha, the share of the uniform distribution
    sigma_floor: NonNegative = 0.0  # least standard deviation in tokens; 0.5 is half a token

    def distribution(self, boxes: Sequence[Box], grid: tuple[int, int]) -> Tensor:  # [image token]
        import torch

        corners = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 2, 2)  # [box, corner, xy]
        down, across = (
            self._along(corners[:, :, axis] * tokens, tokens)
            for axis, tokens in ((1, grid[0]), (0, grid[1]))
        )
        # The axes of a box are independent, so its softmax over tokens is one over rows times one
        # over columns.
        mixture = (down[:, :, None] * across[:, None, :]).mean(dim=0).flatten()
        mixed = (1 - self.smoothing) * mixture + self.smoothing / len(mixture)
        return mixed.float()

    def _along(self, edges: Tensor, tokens: int) -> Tensor:  # [box, edge] -> [box, token]
        """The normalised Gaussians along one side of the image; `edges` in tokens."""
        import torch

        low, high = edges[:, :1], edges[:, 1:]
        sigma = (self.sigma_scale * (high - low)).clamp(min=max(self.sigma_floor, NARROWEST))
        centres = torch.arange(tokens, dtype=torch.float64) + 0.5
        return torch.softmax(-0.5 * ((centres - (low + high) / 2) / sigma) ** 2, dim=-1)
