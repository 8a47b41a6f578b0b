"""Generation with transformers itself: each prompt is encoded once, its group shares the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vexp.engine.base import Engine, Generated, Sampling
from vexp.registry import register

if TYPE_CHECKING:
    from vexp.policy.policy import Policy
    from vexp.policy.prompts import PromptBatch


@register("engine", "hf")
@dataclass(frozen=True, kw_only=True)
class HF(Engine):
    """Decodes in the training process, with the policy's own weights."""

    def generate(
        self, policy: Policy, prompts: PromptBatch, item_ids: Sequence[str], sampling: Sampling
    ) -> Generated:
        from vexp.engine import _decode

        return _decode.generate(policy, prompts, item_ids, sampling)
