"""What an evaluator is: it scores one checkpoint on one benchmark and keeps every sample."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vexp.registry import Component

if TYPE_CHECKING:
    from vexp.policy.policy import Policy
    from vexp.spec.run import RunSpec


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
    # what a picture of the response needs, where it is kept: see vexp.diagnostics.gallery
    gallery: Mapping[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """The line of samples.jsonl; without what is optional and not there."""
        found = asdict(self)
        for name in ("values", "tokens", "gallery"):
            if not found[name]:
                del found[name]
        return found


Metrics = Mapping[str, Mapping[str, float | None]]  # {metric: {value, stderr, n}}


@dataclass(frozen=True)
class EvaluationContext:
    """What an evaluation in a process of its own is given."""

    checkpoint: Path | None  # a folder in Hugging Face format; None: as the run starts it
    content: str  # hash of the checkpoint's content
    work: Path  # a folder that the next attempt finds again, whatever ended this one
    progress: Callable[[int, int | None], None]  # questions answered, and how many there are
    note: Callable[[str], None]  # a message worth a line of its own
    ensure: Callable[[], None]  # raises ClaimLost when another process has taken over
    stopping: Callable[[], bool]  # whether the user asked to stop


@dataclass(frozen=True)
class EvaluationScores:
    """What an evaluation in a process of its own found."""

    samples: Sequence[Sample]
    metrics: Metrics
    about: Mapping[str, Any] = field(default_factory=dict)  # further entries of results.json
    files: Mapping[str, Path] = field(default_factory=dict)  # kept beside it, by name


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


@dataclass(frozen=True, kw_only=True)
class SeparateEvaluator(Evaluator):
    """Scores a checkpoint in a process of its own, where the checkpoint is loaded again."""

    benchmark: str = ""  # what is scored

    @property
    def of_benchmark(self) -> str:
        """The benchmark that the main metric is a whole result of; empty: of none, or of a part."""
        return self.benchmark

    def samples(self, policy: Policy, run: RunSpec, start: int = 0) -> Iterator[Sample]:
        raise NotImplementedError(f"{self.name} scores by `score`")

    @abstractmethod
    def score(self, run: RunSpec, desk: EvaluationContext) -> EvaluationScores:
        """Score the checkpoint; go on from what a former attempt left in `desk.work`.

        Raises:
            Interrupted: the user asked to stop.
            VexpError: the other process failed; says why.
        """
