"""What a reward term is: one named number per response; the reward is their weighted sum."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vexp.config.types import Finite
from vexp.dataset.base import Item
from vexp.registry import Component
from vexp.verifier.base import Verdict

if TYPE_CHECKING:
    from torch import Tensor

    from vexp.experience.batch import Experience


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
    emits: Sequence[str] = ()  # special tokens that a response may contain
    opening: str = ""  # what the prompt has already written of every response


@dataclass(frozen=True, kw_only=True)
class RewardTerm(Component):
    """One term of the reward."""

    kind: ClassVar[str] = "reward"

    weight: Finite = 1.0  # factor of this term in the sum

    @abstractmethod
    def values(self, scored: Scored) -> list[float]:
        """The unweighted term, one number per response."""


@dataclass(frozen=True, kw_only=True)
class ObservedReward(RewardTerm):
    """A term that looks at what the experience pass found, not at the text.

    It is known only for the groups that passed the filter, and added to their reward there.
    """

    def values(self, scored: Scored) -> list[float]:
        return [0.0] * len(scored.texts)

    @abstractmethod
    def observed(self, experience: Experience) -> Tensor:  # [rollout] float64
        """The unweighted term, one finite number per response."""
