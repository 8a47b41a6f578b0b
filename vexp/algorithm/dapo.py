"""DAPO's objective: clip-higher, no KL to a reference, and every token counts the same."""

from __future__ import annotations

from dataclasses import dataclass

from vexp.algorithm.base import GroupNormalised
from vexp.config.types import NonNegative
from vexp.registry import register


@register("algorithm", "dapo")
@dataclass(frozen=True, kw_only=True)
class DAPO(GroupNormalised):
    """Decoupled clip and token-level mean of Yu et al. 2025, "DAPO" (arXiv 2503.14476), eq. 8.

    The paper's other two parts are switches of their own: `group_filter=dynamic_sampling` and the
    reward term `overlong`.

    Breaks without dynamic sampling when many groups are all right or all wrong: they add tokens to
    the mean and nothing to the gradient, so that the step shrinks.
    """

    clip_high: NonNegative = 0.28
