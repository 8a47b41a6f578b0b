"""GRPO as EasyR1 sets it: wider upper clip, dual clip, token mean, KL as a loss term."""

from __future__ import annotations

from dataclasses import dataclass

from vexp.algorithm.base import DualClip, GroupNormalised
from vexp.config.types import NonNegative
from vexp.registry import register


@register("algorithm", "grpo_clip_higher")
@dataclass(frozen=True, kw_only=True)
class GRPOClipHigher(GroupNormalised):
    """The GRPO baseline of VICRA, and without KL of VGPO: EasyR1's defaults (`core_algos.py`).

    Shao et al. 2024, "DeepSeekMath" (arXiv 2402.03300), eq. 3 with the decoupled clip of DAPO
    (arXiv 2503.14476, eq. 8) and, where A < 0, the dual clip of Ye et al. 2020, eq. 6.

    Breaks when all responses of a prompt earn the same: such groups teach nothing, but the KL to
    the reference policy still acts on them.
    """

    clip_high: NonNegative = 0.3
    dual_clip: DualClip | None = 3.0
    kl_coef: NonNegative = 1e-2
