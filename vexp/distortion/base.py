"""What a distortion is: the counterfactual, or noisy, image of an item."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vexp.registry import Component

if TYPE_CHECKING:
    from numpy.random import Generator

    from vexp.dataset.base import Item


@dataclass(frozen=True, kw_only=True)
class Distortion(Component):
    """Changes an item's image; the question stays. An item without an image stays as it is."""

    kind: ClassVar[str] = "distortion"

    @property
    def random(self) -> bool:
        """Whether `apply` draws from its generator."""
        return False

    @property
    def per_rollout(self) -> bool:
        """Whether each rollout of a prompt gets a draw of its own, not one shared by its group."""
        return False

    def at(self, strength: float) -> Distortion:
        """This distortion at a share `strength`, 0 to 1, of its strength, for annealed noise.

        A distortion without a natural scale is the same at every strength; that is the default.
        """
        return self

    @abstractmethod
    def apply(self, item: Item, noise: Generator) -> Item:
        """The item with its image changed (never in place), a function of item and noise alone."""
