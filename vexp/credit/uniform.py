"""Every token of a response gets the response's advantage: plain GRPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vexp.credit.base import CreditMethod
from vexp.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from vexp.experience.batch import Experience


@register("credit", "uniform")
@dataclass(frozen=True, kw_only=True)
class Uniform(CreditMethod):
    """A[i, t] = A[i], Shao et al. 2024 (arXiv 2402.03300), section 4.1.2.

    Breaks when few tokens decide whether an answer is right: all others are credited alike.
    """

    def advantages(self, outcome: Tensor, experience: Experience) -> Tensor:  # [rollout, token]
        return outcome[:, None] * experience.mask
