"""All items of all datasets, each once per epoch."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass

from vexp.dataset.base import Split
from vexp.errors import DataError
from vexp.mix.base import Mix
from vexp.registry import register

ROUNDS = 8


@register("mix", "all")
@dataclass(frozen=True, kw_only=True)
class All(Mix):
    """The datasets together, shuffled anew each epoch; a larger one is seen more often."""

    def pick(self, ordinal: int, *, seed: int, split: Split = "train") -> tuple[str, int]:
        names = sorted(self.datasets)  # the order in which a config lists them does not matter
        sizes = [self.datasets[name].size(split) for name in names]
        if not sum(sizes):
            raise DataError(
                f"there is no {split} item to draw",
                where=", ".join(f"mix.datasets.{name}" for name in names) or "mix.datasets",
                remedy="name a dataset whose split is not empty",
            )
        epoch, place = divmod(ordinal, sum(sizes))
        index = permuted(place, sum(sizes), key=(seed, epoch))
        for name, size in zip(names, sizes, strict=True):
            if index < size:
                return name, index
            index -= size
        raise AssertionError("a permutation stays within its range")


def permuted(place: int, size: int, *, key: tuple[int, ...]) -> int:
    """Where a keyed permutation of range(size) sends `place`; takes no memory.

    A balanced Feistel network over the next power of four, walked until it is back in range (Black
    and Rogaway, "Ciphers with arbitrary finite domains", 2002); rounds are keyed blake2b.
    """
    if not 0 <= place < size:
        raise IndexError(f"there is no place {place} in range({size})")
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    rounds = _round_keys(key)
    while True:
        left, right = place >> half, place & ((1 << half) - 1)
        for round_key in rounds:
            mixed = hashlib.blake2b(right.to_bytes(8, "little"), key=round_key, digest_size=8)
            left, right = right, left ^ (int.from_bytes(mixed.digest(), "little") >> (64 - half))
        place = left << half | right
        if place < size:
            return place


@functools.lru_cache(maxsize=64)
def _round_keys(key: tuple[int, ...]) -> tuple[bytes, ...]:
    text = ",".join(map(str, key))
    return tuple(hashlib.blake2b(f"{text};{i}".encode()).digest() for i in range(ROUNDS))
