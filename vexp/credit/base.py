"""What credit is: from one outcome advantage per rollout to an advantage per token."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vexp.registry import Component

if TYPE_CHECKING:
    from torch import Tensor

    from vexp.experience.batch import Experience


@dataclass(frozen=True, kw_only=True)
class CreditMethod(Component):
    """Shares the outcome advantage out over a response's tokens. Carries no gradient."""

    kind: ClassVar[str] = "credit"

    @abstractmethod
    def advantages(self, outcome: Tensor, experience: Experience) -> Tensor:  # [rollout, token]
        """Token advantages; `outcome` is [rollout]; zero outside the response mask."""

    @property
    def across_groups(self) -> bool:
        """Whether a group's credit depends on the other groups of the step."""
        return False

    def metrics(self, experience: Experience) -> dict[str, float]:
        """What to log of the step's credit, by name (`credit/...`)."""
        return {}
