"""What a group filter is: which groups of rollouts reach the update."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vexp.registry import Component, ComponentState

if TYPE_CHECKING:
    from numpy.random import Generator
    from torch import Tensor

    from vexp.experience.batch import Experience


@dataclass(frozen=True, kw_only=True)
class ReplayedRollouts:
    """Rollouts of former steps, with what their own step found out about them."""

    ordinals: Tensor  # [rollout] int64: which draw of the mix the prompt was
    places: Tensor  # [rollout] int64, index within its group
    tokens: Tensor  # [rollout, token] int64; what lies outside the mask has no meaning
    mask: Tensor  # [rollout, token] bool
    logprobs: Tensor  # [rollout, token] of the policy that sampled, with the image as it is
    outcome: Tensor  # [rollout] float64: the outcome advantage, not 0
    rewards: Tensor  # [rollout] float64
    accuracies: Tensor  # [rollout] float64

    def __len__(self) -> int:
        return len(self.outcome)


@dataclass(frozen=True, kw_only=True)
class GroupFilter(Component):
    """Chooses groups by their accuracies (never by the summed reward, spec of DAPO)."""

    kind: ClassVar[str] = "group_filter"

    @property
    def max_batches(self) -> int:
        """How many batches may be generated to fill one step; 1 means no re-sampling."""
        return 1

    @property
    def replays(self) -> bool:
        """Whether rollouts of former steps take the places of groups without an advantage.

        The loop then drops such groups, asks `recall` for others, and needs a memory.
        """
        return False

    @abstractmethod
    def keep(self, accuracies: Sequence[Sequence[float]], step: int) -> list[bool]:
        """Whether each group, given as the accuracies of its rollouts, may train the policy.

        Steps count from 1.
        """

    def recall(
        self, memory: ComponentState, room: int, batch: int, noise: Generator
    ) -> ReplayedRollouts | None:
        """At most `room` rollouts for a step of `batch`; None if there are none."""
        return None

    def remember(self, memory: ComponentState, experience: Experience) -> ComponentState:
        """The memory after a step; `experience` is what the step trained on, old log-probs too."""
        return memory
