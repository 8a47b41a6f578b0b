"""Items with one and with several pieces of evidence, in a fixed ratio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vexp.config.types import Fraction
from vexp.dataset.base import Split
from vexp.errors import DataError
from vexp.mix.all import permuted
from vexp.mix.base import Mix
from vexp.registry import register

Tag = Literal["single", "multi"]
Pool = Sequence[tuple[str, int]]  # dataset name and item index
_ByTag = dict[str, list[tuple[str, int]]]


@register("mix", "balanced")
@dataclass(frozen=True, kw_only=True)
class Balanced(Mix):
    """Two pools by tag, over all datasets, drawn from in turn (EASE, appendix B.4: 1:1).

    Each pool is shuffled anew whenever all of it was seen, so the smaller one is seen more often.
    A share of 0 or 1 draws from one pool only. Items without a tag are never drawn. Held-out
    evaluations do not draw: they score every item of a split.
    """

    multi_share: Fraction = 0.5  # share of items with several pieces of evidence

    def check_data(self) -> None:
        super().check_data()
        shares: dict[Tag, float] = {"single": 1 - self.multi_share, "multi": self.multi_share}
        for tag, share in shares.items():
            if share > 0:
                self._pool("train", tag)

    def pick(self, ordinal: int, *, seed: int, split: Split = "train") -> tuple[str, int]:
        before = math.floor(ordinal * self.multi_share)  # items with several, of those before
        several = math.floor((ordinal + 1) * self.multi_share) > before
        tag: Tag = "multi" if several else "single"
        pool = self._pool(split, tag)
        epoch, place = divmod(before if several else ordinal - before, len(pool))
        return pool[permuted(place, len(pool), key=(seed, epoch, int(several)))]

    def _pool(self, split: Split, tag: Tag) -> Pool:
        """The items with a tag, by dataset name and index. It is frozen, so it remembers them.

        Raises:
            DataError: if there are none.
        """
        pools: dict[Split, _ByTag] = self.__dict__.setdefault("_pools", {})
        if split not in pools:
            found: _ByTag = {}
            for name in sorted(self.datasets):  # their order in a config does not matter
                dataset = self.datasets[name]
                for index in range(dataset.size(split)):
                    found.setdefault(dataset.tag_of(split, index), []).append((name, index))
            pools[split] = found
        if not pools[split].get(tag):
            counts = {name or "none": len(pool) for name, pool in pools[split].items()}
            shown = ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))
            raise DataError(
                f"there is no {split} item tagged {tag!r} to draw",
                where=", ".join(f"mix.datasets.{name}" for name in sorted(self.datasets))
                or "mix.datasets",
                accepted=f"tags of the items there are: {shown or 'none, the split is empty'}",
                remedy=f"add items tagged {tag!r}, or set mix.multi_share="
                f"{0 if tag == 'multi' else 1}",
            )
        return pools[split][tag]
