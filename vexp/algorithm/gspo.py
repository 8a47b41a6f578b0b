"""GSPO: importance ratios and clipping per sequence, because rewards are given per sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vexp.algorithm.base import LOG_RATIO_LIMIT, Aggregation, GroupNormalised
from vexp.config.types import Fraction, NonNegative
from vexp.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("algorithm", "gspo")
@dataclass(frozen=True, kw_only=True)
class GSPO(GroupNormalised):
    """Group sequence policy optimisation in its token form, Zheng et al. 2025 (arXiv 2507.18071).

    The ratio of a sequence is the geometric mean of its tokens' ratios (eq. 7). Each token carries
    that value while its gradient flows through its own log-prob (eq. 14), which equals the plain
    sequence form (eq. 5) in value and gradient when a sequence's tokens share one advantage, and
    stays right when a credit method gives them different ones.

    Breaks with clip bounds of the size that token ratios need: a sequence's ratio stays close to 1,
    so 0.2 would never clip.
    """

    clip_low: Fraction = 3e-4
    clip_high: NonNegative = 4e-4
    aggregation: Aggregation = "seq-mean-token-mean"

    def ratio(self, logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
        change = (logprobs.detach() - old_logprobs).masked_fill(~mask, 0.0).sum(dim=1, keepdim=True)
        mean_change = change / mask.sum(dim=1, keepdim=True).clamp(min=1)
        limited = mean_change.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        own = (logprobs - logprobs.detach()).masked_fill(~mask, 0.0)  # 0, for its gradient
        return limited.exp() * own.exp()
