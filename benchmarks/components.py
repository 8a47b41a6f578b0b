"""The two parts of a vexp run that only the step benchmark needs, added as any user's plugin is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.reward import content_score
from vexp.engine.base import Generated, Sampling
from vexp.engine.hf import HF
from vexp.registry import register
from vexp.reward.base import RewardTerm, Scored

if TYPE_CHECKING:
    from vexp.policy.policy import Policy
    from vexp.policy.prompts import PromptBatch


@register("engine", "hf_full_length")
@dataclass(frozen=True, kw_only=True)
class FullLength(HF):
    """The default engine, but no response ends before the limit."""

    def generate(
        self, policy: Policy, prompts: PromptBatch, item_ids: Sequence[str], sampling: Sampling
    ) -> Generated:
        full = dataclasses.replace(sampling, ignore_eos=True)
        return super().generate(policy, prompts, item_ids, full)


@register("reward", "content_score")
@dataclass(frozen=True, kw_only=True)
class ContentScore(RewardTerm):
    """The shared reward of the step benchmark."""

    def values(self, scored: Scored) -> list[float]:
        return [content_score(text) for text in scored.texts]
