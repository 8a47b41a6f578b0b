"""What a mix is: which item of which dataset the n-th training prompt is."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from vexp.dataset.base import Dataset, Item, Split
from vexp.registry import Component


@dataclass(frozen=True, kw_only=True)
class Mix(Component):
    """Datasets by name, and the order in which their items are drawn."""

    kind: ClassVar[str] = "mix"

    datasets: dict[str, Dataset] = field(default_factory=dict)

    @abstractmethod
    def pick(self, ordinal: int, *, seed: int, split: Split = "train") -> tuple[str, int]:
        """Dataset name and item index of the `ordinal`-th draw (from 0, without end).

        A pure function: each epoch is a permutation keyed by (seed, epoch).
        """

    def draw(self, ordinal: int, *, seed: int, split: Split = "train") -> Item:
        """The `ordinal`-th training item."""
        name, index = self.pick(ordinal, seed=seed, split=split)
        return self.datasets[name].item(split, index)
