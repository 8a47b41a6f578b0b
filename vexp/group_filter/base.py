"""What a group filter is: which groups of rollouts reach the update."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from vexp.registry import Component


@dataclass(frozen=True, kw_only=True)
class GroupFilter(Component):
    """Chooses groups by their accuracies (never by the summed reward, spec of DAPO)."""

    kind: ClassVar[str] = "group_filter"

    @property
    def max_batches(self) -> int:
        """How many batches may be generated to fill one step; 1 means no re-sampling."""
        return 1

    @abstractmethod
    def keep(self, accuracies: Sequence[Sequence[float]]) -> list[bool]:
        """Whether each group, given as the accuracies of its rollouts, may train the policy."""
