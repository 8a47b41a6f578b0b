"""What a reward term is: one named number per response; the reward is their weighted sum."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from vexp.config.types import Finite
from vexp.dataset.base import Item
from vexp.registry import Component
from vexp.verifier.base import Verdict


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a term may look at: the finished responses of one step, all lists of one length."""

    texts: Sequence[str]  # decoded, without the end-of-sequence token
    lengths: Sequence[int]  # response tokens, the end-of-sequence token included
    finished: Sequence[bool]  # ended with the end-of-sequence token within the limit
    items: Sequence[Item]
    verdicts: Sequence[Verdict]
    max_response_length: int
    response_format: str = (
        "think_boxed"  # the run's `prompt.response_format`, which `format` rewards
    )


@dataclass(frozen=True, kw_only=True)
class RewardTerm(Component):
    """One term of the reward."""

    kind: ClassVar[str] = "reward"

    weight: Finite = 1.0  # factor of this term in the sum

    @abstractmethod
    def values(self, scored: Scored) -> list[float]:
        """The unweighted term, one number per response."""
