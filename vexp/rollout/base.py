"""What a rollout method is: how a group of responses to one prompt is sampled."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from vexp.config.types import Fraction, Neutral, Positive, PositiveInt
from vexp.distortion.base import Distortion
from vexp.errors import Problem
from vexp.registry import Component

if TYPE_CHECKING:
    from numpy.random import Generator

    from vexp.spec.run import RunSpec


@dataclass(frozen=True)
class Draw:
    """Some responses of every group, all sampled from one version of the prompt's image."""

    count: int  # responses per prompt
    distortion: Distortion | None = None  # what the sampler sees; None: the image as it is


@dataclass(frozen=True, kw_only=True)
class RolloutMethod(Component):
    """Sampling settings shared by every rollout method."""

    kind: ClassVar[str] = "rollout"

    group_size: PositiveInt = 8  # responses per prompt
    temperature: Positive = 1.0  # divides the logits, when sampling and when training
    top_p: Fraction = 1.0  # nucleus; 1 keeps every token that is not banned
    max_response_length: PositiveInt = 24  # tokens, the end-of-sequence token included
    # Where a response ends: at the end of the sequence only, or also with its answer, which is the
    # box or span of `prompt.response_format` behind the thoughts.
    stop: Annotated[Literal["end", "answer"], Neutral("end")] = "end"  # of a response

    @property
    def responses_per_prompt(self) -> int:
        """The size of a group: over all of these a prompt's baseline is taken."""
        return self.group_size

    def draws(self, step: int, steps: int) -> tuple[Draw, ...]:
        """What to sample for each prompt in step `step` of 1 to `steps`, in the group's order.

        The counts add up to `responses_per_prompt`. A distortion changes what the sampler sees and
        nothing else: training always scores the responses with the image as it is.
        """
        return (Draw(self.group_size),)


@dataclass(frozen=True)
class SecondThought:
    """How a finished response is taken up again."""

    trigger: str  # appended to it
    cut_answer: bool  # whether the response is first cut before its last answer


@dataclass(frozen=True)
class Continuation:
    """What became of a response that was taken up again."""

    text: str  # what was sampled after the trigger
    length: int  # tokens of that, the end-of-sequence token included
    finished: bool  # ended by itself within the limits
    correct: bool  # the verdict on the whole: old response, trigger and continuation


@dataclass(frozen=True, kw_only=True)
class Continuing(RolloutMethod):
    """A rollout method that has some finished responses go on; the loop makes the tokens."""

    triggers: tuple[str, ...]  # texts of which one is set after a response that goes on
    continuation_temperature: Positive = 1.0  # at which it goes on
    room: PositiveInt = 1  # tokens that have to be left after the trigger
    max_per_prompt: PositiveInt = 1  # kept ones in a group, the first of those that qualify

    def problems(self, run: RunSpec) -> Iterator[Problem]:
        if self.stop == "answer":
            yield Problem(
                "a response that goes on behind its answer cannot end with it",
                where="stop",
                accepted="stop=end",
            )

    @property
    @abstractmethod
    def longest(self) -> int:
        """Tokens of the longest continuation that is kept."""

    @abstractmethod
    def second_thought(self, noise: Generator) -> SecondThought | None:
        """Whether and how a finished response is taken up again; None: it stays as it is."""

    @abstractmethod
    def keeps(self, found: Continuation) -> bool:
        """Whether a continued response is good enough to take the place of the original."""
