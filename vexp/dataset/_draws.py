"""Random numbers for making items: blake2b in counter mode, keyed by what they are for.

Every number is a pure function of its key and its place in the stream, on every machine and with
every version of NumPy; access order cannot matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Draws:
    """The stream of random numbers that belongs to `key`."""

    def __init__(self, *key: str | int) -> None:
        digest = hashlib.blake2b(digest_size=32)
        for part in key:
            content = str(part).encode()
            digest.update(b"%c%d:" % (b"s" if isinstance(part, str) else b"i", len(content)))
            digest.update(content)
        self._key = digest.digest()
        self._counter = 0
        self._ready: list[int] = []

    def below(self, bound: int) -> int:
        """A whole number in [0, bound)."""
        return (self._word() * bound) >> 64  # the bias is below bound / 2**64

    def between(self, low: int, high: int) -> int:
        """A whole number in [low, high], both included."""
        return low + self.below(high - low + 1)

    def unit(self) -> float:
        """A number in [0, 1)."""
        return (self._word() >> 11) / 2.0**53

    def choose(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        """`count` different options in random order."""
        left = list(options)
        return [left.pop(self.below(len(left))) for _ in range(count)]

    def _word(self) -> int:
        if not self._ready:
            block = hashlib.blake2b(self._counter.to_bytes(8, "little"), key=self._key).digest()
            self._ready = [int.from_bytes(block[i : i + 8], "little") for i in range(0, 64, 8)]
            self._counter += 1
        return self._ready.pop()
