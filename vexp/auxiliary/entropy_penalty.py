"""The entropy penalty of VPPO: unlikely tokens cost, on average over all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vexp.algorithm.base import aggregation_weights
from vexp.auxiliary.base import Auxiliary
from vexp.config.types import NonNegative
from vexp.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from vexp.experience.batch import Experience
    from vexp.policy.policy import PolicyOutput


@register("auxiliary", "entropy_penalty")
@dataclass(frozen=True, kw_only=True)
class EntropyPenalty(Auxiliary):
    """coef * mean_tok(-lp), added to the loss, so that it lowers the entropy (VPPO's code).

    -lp of the sampled token estimates the entropy; VPPO uses 0.06 at 7B and 0.12 at 8B.

    Breaks exploration when the coefficient is large.
    """

    coef: NonNegative = 0.06

    def weights(self, experience: Experience, draw: Tensor) -> Tensor:  # [rollout, token]
        return aggregation_weights(experience.mask, "token-mean", 1)

    def token_loss(self, output: PolicyOutput, batch: Experience) -> Tensor:  # [rollout, token]
        return -output.logprobs.masked_fill(~batch.mask, 0.0)
