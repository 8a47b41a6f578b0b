"""What a search is: it proposes the settings of the next trial, from a space and what was found."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from vexp.config.types import Between, Count, Finite, Positive, PositiveInt
from vexp.errors import ConfigError, Problem
from vexp.registry import Component

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

Direction = Literal["maximize", "minimize"]
_SCALARS = (bool, int, float, str)


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """The values that one key may take."""

    type: Literal["float", "int", "categorical"]
    low: Finite | None = None  # of float and int; included
    high: Finite | None = None  # of float and int; included where steps from `low` meet it
    step: Positive | None = None  # distance between values; null: 1 for int, none for float
    log: bool = False  # draw the logarithm evenly
    choices: tuple[Any, ...] = ()  # of categorical

    def __post_init__(self) -> None:
        if found := list(self._problems()):
            raise ConfigError(found)

    def _problems(self) -> Iterator[Problem]:
        if self.type == "categorical":
            yield from self._choice_problems()
            return
        if self.choices:
            yield Problem(
                f"a {self.type} has no choices", where="choices", remedy="use type: categorical"
            )
        if self.low is None or self.high is None:
            lacking = "low" if self.low is None else "high"
            yield Problem(f"a {self.type} needs a `{lacking}`", accepted="low: 1, high: 8")
            return
        if self.low > self.high:
            what = f"`low` ({self.low:g}) is above `high` ({self.high:g})"
            yield Problem(what, where="low")
        if self.log and self.low <= 0:
            yield Problem("`log` needs a `low` above 0", where="low")
        if self.log and self.step is not None:
            yield Problem("`step` and `log` exclude each other", where="step")
        for name in ("low", "high", "step"):
            value = getattr(self, name)
            if self.type == "int" and value is not None and value != int(value):
                yield Problem(f"{value:g} is not a whole number", where=name)

    def _choice_problems(self) -> Iterator[Problem]:
        for name in ("low", "high", "step"):
            if getattr(self, name) is not None:
                yield Problem(f"a categorical has no `{name}`", where=name)
        if not self.choices:
            yield Problem("a categorical needs choices", where="", accepted="choices: [a, b]")
        for index, choice in enumerate(self.choices):
            if choice is not None and not isinstance(choice, _SCALARS):
                yield Problem("a choice is a single value, no list and no mapping", where="choices")
            elif any(choice == other for other in self.choices[:index]):
                yield Problem(f"the choice {choice!r} is listed twice", where="choices")

    @property
    def size(self) -> int | None:
        """How many values there are; None if there is no end of them."""
        if self.type == "categorical":
            return len(self.choices)
        if self.low is None or self.high is None or (self.type == "float" and self.step is None):
            return None
        return int((_decimal(self.high) - _decimal(self.low)) // self._step) + 1

    def value(self, index: int) -> Any:
        """Value number `index` of those that can be counted; as it is written by hand: 0.3."""
        if self.type == "categorical":
            return self.choices[index]
        assert self.low is not None
        counted = _decimal(self.low) + index * self._step
        return int(counted) if self.type == "int" else float(counted)

    def exact(self, value: Any) -> Any:
        """`value` as `value(index)` has it, without the noise of a sampler's arithmetic."""
        if self.type != "float" or self.step is None or self.low is None:
            return value
        return self.value(round((_decimal(value) - _decimal(self.low)) / self._step))

    def holds(self, value: Any) -> bool:
        """Whether it may propose this value; noise in the last digits of a number is none."""
        if self.type == "categorical":
            return value in self.choices
        if self.low is None or self.high is None or type(value) not in (int, float):
            return False
        noise = 1e-9 * max(abs(self.low), abs(self.high))
        whole = self.type == "float" or type(value) is int
        return whole and self.low - noise <= value <= self.high + noise

    @property
    def last(self) -> float | None:
        """The highest value that is proposed: `high`, unless steps from `low` miss it."""
        size = None if self.type == "categorical" else self.size
        return self.high if size is None else self.value(size - 1)

    @property
    def _step(self) -> Decimal:
        return _decimal(self.step or 1)

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that show whether the config takes them: the first and last, or every choice."""
        if self.type == "categorical":
            return self.choices
        kind = int if self.type == "int" else float
        return tuple(dict.fromkeys(kind(v) for v in (self.low, self.last) if v is not None))

    def optuna(self) -> BaseDistribution:
        """The same for Optuna."""
        from optuna.distributions import (
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )

        if self.type == "categorical":
            return CategoricalDistribution(self.choices)
        assert self.low is not None and self.last is not None
        if self.type == "int":
            step = int(self.step or 1)
            return IntDistribution(int(self.low), int(self.last), log=self.log, step=step)
        return FloatDistribution(self.low, self.last, log=self.log, step=self.step)


def _decimal(value: float) -> Decimal:
    """The number as it is written, not the binary one next to it."""
    return Decimal(repr(value))


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A metric to be made large or small; of a trial with several seeds, their mean counts."""

    metric: str  # as in results.json, e.g. accuracy/single
    evaluator: str = "dev"  # the evaluator's name in the run's config; never tune on test items
    direction: Direction = "maximize"  # maximize or minimize


@dataclass(frozen=True, kw_only=True)
class Pruner:
    """Stops trials that look worse than others at the same step of reinforcement learning.

    It judges the first seed of a trial. The metric is read the way round the objective is.
    """

    name: Literal["median", "successive_halving", "hyperband"]
    metric: str  # of the run's own metrics.jsonl, e.g. reward
    every: PositiveInt  # steps between two looks
    startup_trials: Count = 5  # median: trials that are finished before any is stopped
    warmup_steps: Count = 0  # median: steps of a trial before it may be stopped
    min_steps: PositiveInt | None = None  # halving, hyperband: steps of the first rung; null: every
    # halving, hyperband: one in so many trials goes on from rung to rung
    reduction_factor: Annotated[int, Between(2)] = 3


@dataclass(frozen=True, kw_only=True)
class Search(Component):
    """Proposes trials. A trial is one setting of the space's keys, run once for each seed."""

    kind: ClassVar[str] = "search"

    objectives: tuple[Objective, ...]  # one, or several for a Pareto front
    space: dict[str, Distribution] = field(default_factory=dict)  # key -> the values it may take
    trials: PositiveInt | None = None  # trials in all; null: every point there is
    pruner: Pruner | None = None  # null: every trial runs to its end
    seed: Count = 0  # of the proposals; trial n draws from a hash of this and n
    storage: str = ""  # database URL for Optuna's copy of the study; empty: a journal file

    def __post_init__(self) -> None:
        if found := list(self.mistakes()):
            raise ConfigError(found)

    def mistakes(self) -> Iterator[Problem]:
        """What is wrong with these settings in themselves."""
        if not self.objectives:
            yield Problem("there is no objective", where="objectives", accepted="- {metric: x}")
        names = [(objective.evaluator, objective.metric) for objective in self.objectives]
        if len(set(names)) < len(names):
            yield Problem("an objective is listed twice", where="objectives")
        if self.pruner and len(self.objectives) > 1:
            yield Problem(
                "a pruner needs a single objective",
                where="pruner",
                remedy="take the pruner out: Optuna prunes by one value",
            )
        yield from self.space_mistakes()
        most = self.size
        if self.trials is None and most is None:
            yield Problem(f"search {self.name!r} needs a number of trials", accepted="trials: 20")
        if self.trials is not None and most is not None and self.trials > most:
            yield Problem(f"there are only {most} points, not {self.trials}", where="trials")

    def space_mistakes(self) -> Iterator[Problem]:
        """What is wrong with the space; override where it is given in another way."""
        if not self.space:
            yield Problem(
                "the space is empty",
                where="space",
                accepted="key: {type: float, low: 1e-5, high: 1e-3, log: true}",
            )

    @property
    def size(self) -> int | None:
        """How many points there are to propose; None if there is no end of them."""
        return None

    @property
    def total(self) -> int:
        """How many trials there shall be in the end."""
        count = self.trials if self.trials is not None else self.size
        assert count is not None
        return count

    def distributions(self) -> Mapping[str, Distribution]:
        """The keys that trials set, with the values they may take."""
        return self.space

    def notes(self) -> Iterator[str]:
        """What the space does not do although it reads like it."""
        for key, values in self.distributions().items():
            if values.type != "categorical" and values.last != values.high:
                yield (
                    f"{key}: steps of {values.step:g} from {values.low:g} end at {values.last:g}; "
                    f"high ({values.high:g}) is never proposed"
                )

    def draw_seed(self, number: int) -> int:
        """The seed of trial `number`, below 2**32; the same whoever proposes it."""
        return int.from_bytes(hashlib.sha256(f"{self.seed}/{number}".encode()).digest()[:4], "big")

    @abstractmethod
    def propose(self, study: Study, number: int) -> Mapping[str, Any]:
        """The settings of trial `number`: a value for each key.

        `study` holds all trials before it. One that asks `study` itself leaves the new trial there.
        """
