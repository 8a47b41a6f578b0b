"""What an evaluator is: it scores one checkpoint on one benchmark and keeps every sample."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from vexp.registry import Component

if TYPE_CHECKING:
    from vexp.spec import RunSpec
    from vexp.train.policy import Policy


@dataclass(frozen=True)
class Sample:
    """One scored question: a line of samples.jsonl."""

    id: str
    question: str
    answer: str
    response: str
    extracted: str | None
    correct: float
    tag: str
    status: str
    length: int  # response tokens, the end-of-sequence token included
    dataset: str = ""  # name of the dataset within the mix
    well_formed: bool = False  # keeps to the run's response format
    truncated: bool = False  # cut off at the limit
    values: Mapping[str, float] = field(default_factory=dict)  # what else was measured, by name
    tokens: Sequence[tuple[str, float]] = ()  # text and weight of each token, where they are kept
    # what a picture of the response needs, where it is kept: see vexp.train.pictures.py
    gallery: Mapping[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """The line of samples.jsonl; without what is optional and not there."""
        found = asdict(self)
        for name in ("values", "tokens", "gallery"):
            if not found[name]:
                del found[name]
        return found


@dataclass(frozen=True, kw_only=True)
class Evaluator(Component):
    """Scores a checkpoint. `version` is raised whenever the scoring itself changes."""

    kind: ClassVar[str] = "evaluator"
    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ()  # patterns of its metrics' names; empty: not known

    @abstractmethod
    def protocol(self, run: RunSpec) -> Mapping[str, Any]:
        """Everything but the checkpoint that decides the scores; enters the evaluation's key."""

    @abstractmethod
    def samples(self, policy: Policy, run: RunSpec, start: int = 0) -> Iterator[Sample]:
        """Score the benchmark sample by sample, in a fixed order, from position `start` on.

        An interrupted evaluation goes on with `start` at the number of samples already kept. Which
        samples share a batch must not depend on `start`: generate the whole batch it falls into.
        """

    @abstractmethod
    def metrics(self, samples: list[Sample]) -> dict[str, dict[str, float | None]]:
        """`{metric: {value, stderr, n}}` from the samples alone, e.g. `accuracy/single`.

        Shares are fractions in [0, 1]. The standard error of a single sample is None.
        """
