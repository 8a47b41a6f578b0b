"""The tokens within the evidence boxes, all alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vexp.config.types import Fraction
from vexp.registry import register
from vexp.target.base import Target

if TYPE_CHECKING:
    from torch import Tensor

    from vexp.dataset.base import Box


@register("target", "hard_box")
@dataclass(frozen=True, kw_only=True)
class HardBox(Target):
    """Uniform over the tokens whose centre lies in a box, mixed with the uniform distribution.

    EASE's ablation: q(v) = (1 - alpha) 1[v in boxes] / n + alpha / V, for n of V tokens. EASE does
    not state how boxes are joined; here it is their union, so that a larger box weighs more. A box
    that holds no token's centre counts as the token that holds the box's centre.

    Breaks with loose boxes: their corners weigh as much as their middle. With `smoothing` 0 the
    target is 0 outside of the boxes, and its logarithm has to be floored.
    """

    smoothing: Fraction = 0.1  # alpha, the share of the uniform distribution

    def distribution(self, boxes: Sequence[Box], grid: tuple[int, int]) -> Tensor:  # [image token]
        from vexp.experience.evidence import token_mask

        mask = token_mask(boxes, grid).double()
        mixed = (1 - self.smoothing) * mask / mask.sum() + self.smoothing / len(mask)
        return mixed.float()
