"""Entropy advantage shaping: tokens the policy was unsure of get a bonus, whatever the outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from vexp.config.types import Between, NonNegative
from vexp.credit._pieces import masked
from vexp.credit.base import CreditMethod
from vexp.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from vexp.experience.batch import Experience

BonusBound = Annotated[float, Between(1, low_open=True)]


@register("credit", "entropy")
@dataclass(frozen=True, kw_only=True)
class Entropy(CreditMethod):
    """A'[i, t] = A[i] + min(alpha H[i, t], |A[i]| / kappa), H [rollout, token] in nats.

    Cheng et al. 2025, "Reasoning with Exploration: An Entropy Perspective" (arXiv 2506.14758). H is
    the exact entropy of the distribution the token was sampled from and carries no gradient; a
    rounding below 0 counts as 0. alpha is the paper's value for GRPO (0.1 for PPO). As kappa > 1,
    no advantage changes its sign, and one of 0 stays 0.

    Breaks the zero mean of the advantages within a group: every change is upwards, so wrong answers
    are pushed down less than right ones are pushed up.
    """

    needs = ("entropy",)

    alpha: NonNegative = 0.4  # bonus per nat of entropy
    kappa: BonusBound = 2.0  # the bonus is at most |A| / kappa

    def advantages(self, outcome: Tensor, experience: Experience) -> Tensor:  # [rollout, token]
        assert experience.entropy is not None
        base = outcome.detach().double()[:, None]
        entropy = masked(experience.entropy, experience.mask).clamp(min=0)
        bonus = (self.alpha * entropy).minimum(base.abs() / self.kappa)
        return masked(base + bonus, experience.mask).to(outcome.dtype)
