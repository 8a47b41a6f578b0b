"""What a layer choice is: which decoder layer is read or supervised."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from vexp.registry import Component


@dataclass(frozen=True, kw_only=True)
class Layer(Component):
    """One decoder layer of the language model, by its 0-based index."""

    kind: ClassVar[str] = "layer"

    @abstractmethod
    def index(self, layers: int) -> int:
        """The index in a model of `layers` decoder layers; outside of 0..layers-1 is an error."""
