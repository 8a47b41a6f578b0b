"""The log-likelihood of right responses, as a bonus: imitation of what the policy got right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vexp.algorithm.base import aggregation_weights
from vexp.auxiliary.base import Auxiliary
from vexp.config.types import NonNegative
from vexp.gate.base import Gate
from vexp.registry import register, slot

if TYPE_CHECKING:
    from torch import Tensor

    from vexp.experience.batch import Experience
    from vexp.policy.policy import PolicyOutput


@register("auxiliary", "likelihood")
@dataclass(frozen=True, kw_only=True)
class Likelihood(Auxiliary):
    """coef * mean_tok(-lp) over the tokens of the responses that pass the gate, right ones.

    PAPO's released code has it as an option (`use_sft_loss`, coef 1e-3). VL-Rethinker's has a
    likelihood term as well (coef 0.05), on right responses of positive advantage alone. Both
    average each micro-batch by itself; here the mean is over the update.

    Breaks exploration: what is right already becomes likelier, also in groups of equal reward.
    """

    coef: NonNegative = 1e-3
    gate: Gate = slot("gate", "reward")  # which responses are imitated

    def weights(self, experience: Experience, draw: Tensor) -> Tensor:  # [rollout, token]
        chosen = experience.mask & self.gate.open(experience).unsqueeze(1)
        return aggregation_weights(chosen, "token-mean", 1)

    def token_loss(self, output: PolicyOutput, batch: Experience) -> Tensor:  # [rollout, token]
        return -output.logprobs.masked_fill(~batch.mask, 0.0)
