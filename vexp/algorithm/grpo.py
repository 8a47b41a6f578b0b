"""GRPO: each response against the other responses to the same prompt, no value network."""

from __future__ import annotations

from dataclasses import dataclass

from vexp.algorithm.base import Aggregation, GroupNormalised
from vexp.config.types import NonNegative
from vexp.registry import register


@register("algorithm", "grpo")
@dataclass(frozen=True, kw_only=True)
class GRPO(GroupNormalised):
    """Group relative policy optimisation as first published: symmetric clip, per-sequence mean.

    Shao et al. 2024, "DeepSeekMath" (arXiv 2402.03300), eq. 3 and 4 (outcome supervision). The KL
    weight is the 1e-3 of DeepSeek-R1: the paper's own 0.04 protects a learned reward model from
    being exploited, which a verifier does not need. Set `kl_coef=0` to save the reference pass.

    Breaks when all responses of a prompt earn the same: such groups teach nothing. Averaging within
    each sequence makes tokens of long wrong answers cheap (see `dr_grpo`), and dividing by the
    group's spread favours prompts that are nearly always or nearly never solved.
    """

    kl_coef: NonNegative = 1e-3
    aggregation: Aggregation = "seq-mean-token-mean"
