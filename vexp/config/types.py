"""Field types with ranges, and the marks that say what a field means for a run's identity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Between:
    """A closed or half-open range; `None` means unbounded. Infinite and NaN are never accepted."""

    low: float | None = None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False

    def accepts(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self.low is not None and (value < self.low or (self.low_open and value == self.low)):
            return False
        return self.high is None or not (
            value > self.high or (self.high_open and value == self.high)
        )

    def __str__(self) -> str:
        if self.low is None and self.high is None:
            return "a finite number"
        if self.high is None:
            return f"{'more than' if self.low_open else 'at least'} {self.low:g}"
        if self.low is None:
            return f"{'less than' if self.high_open else 'at most'} {self.high:g}"
        left, right = "(" if self.low_open else "[", ")" if self.high_open else "]"
        return f"in {left}{self.low:g}, {self.high:g}{right}"


@dataclass(frozen=True)
class Elsewhere:
    """A value that other frameworks have and this field has not; what to choose in its place."""

    value: str
    remedy: str


@dataclass(frozen=True)
class Unhashed:
    """Marks a field that cannot change the trained weights; it is recorded, not hashed."""


@dataclass(frozen=True)
class Neutral:
    """Marks a field added later: at this value it is left out of the hash, so old ids stay."""

    value: Any


@dataclass(frozen=True)
class UserPath:
    """Marks text that names a file or folder of the user: `~` is the home folder that it means."""


@dataclass(frozen=True)
class ByName:
    """Marks variables of the environment: wherever a config is written, their values are not."""


UNHASHED = Unhashed()
USER_PATH = UserPath()
BY_NAME = ByName()

Finite = Annotated[float, Between()]
Fraction = Annotated[float, Between(0, 1)]
Positive = Annotated[float, Between(0, low_open=True)]
NonNegative = Annotated[float, Between(0)]
PositiveInt = Annotated[int, Between(1)]
Count = Annotated[int, Between(0)]
