"""What a gate is: which responses an auxiliary loss acts on."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vexp.registry import Component

if TYPE_CHECKING:
    from torch import Tensor

    from vexp.experience.batch import Experience


@dataclass(frozen=True, kw_only=True)
class Gate(Component):
    """Chooses responses."""

    kind: ClassVar[str] = "gate"

    @abstractmethod
    def open(self, experience: Experience) -> Tensor:  # [rollout] bool
        """True for the responses that the loss sees."""
