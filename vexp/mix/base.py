"""What a mix is: which item of which dataset the n-th training prompt is."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar

from vexp.dataset.base import Dataset, Item, Split
from vexp.errors import ConfigError, Problem
from vexp.registry import Component


@dataclass(frozen=True, kw_only=True)
class Mix(Component):
    """Datasets by name, and the order in which their items are drawn."""

    kind: ClassVar[str] = "mix"

    datasets: dict[str, Dataset] = field(default_factory=dict)  # by a name of your choice

    @abstractmethod
    def pick(self, ordinal: int, *, seed: int, split: Split = "train") -> tuple[str, int]:
        """Dataset name and item index of the `ordinal`-th draw (from 0, without end).

        A pure function: each epoch is a permutation keyed by (seed, epoch).
        """

    def check_data(self) -> None:
        """Look at the data of all datasets, once before training starts.

        Raises:
            ConfigError: with everything that is wrong, by file and row.
        """
        found = [
            Problem(
                problem.what,
                where=f"mix.datasets.{name}: {problem.where}",
                accepted=problem.accepted,
                remedy=problem.remedy,
            )
            for name, dataset in self.datasets.items()
            for problem in dataset.data_problems()
        ]
        if found:
            raise ConfigError(found)

    def data_notes(self) -> list[str]:
        """What is to be said of the data that `check_data` has nothing against, by dataset."""
        return [
            f"mix.datasets.{name}: {note}"
            for name, dataset in self.datasets.items()
            for note in dataset.data_notes()
        ]

    def draw(self, ordinal: int, *, seed: int, split: Split = "train") -> Item:
        """The `ordinal`-th training item; its id begins with the dataset's name."""
        name, index = self.pick(ordinal, seed=seed, split=split)
        item = self.datasets[name].item(split, index)
        return replace(item, id=f"{name}/{item.id}")
