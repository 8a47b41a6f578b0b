"""Forced rethinking: finished responses are made to go on, and replaced where that ends well."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vexp.config.types import Count, Fraction, Positive, PositiveInt
from vexp.errors import Problem
from vexp.registry import register
from vexp.rollout.base import Continuation, Continuing, SecondThought

if TYPE_CHECKING:
    from numpy.random import Generator

    from vexp.spec.run import RunSpec

_HESITATION = re.compile(r"wait,|wait a|alternatively")


@register("rollout", "rethink")
@dataclass(frozen=True, kw_only=True)
class Rethink(Continuing):
    """`group_size` responses, some of them continued after a trigger such as "Wait, ...".

    Wang et al. 2025, "VL-Rethinker" (arXiv 2504.08837), forced rethinking. A response that ended by
    itself is taken up again with probability `prob`: its end is taken off, a trigger appended, and
    the policy goes on from there at `continuation_temperature`. Old text, trigger and continuation
    are one response, in the place of the original: scored and trained like any other, the trigger
    too. It is kept only if `keeps` says so and fewer than `max_per_prompt` of its group were; else
    the original stays. So a group never changes its size.

    The paper describes the trigger and that right ones are kept; the other settings are those of
    the released code. Ours: triggers are drawn alike (the code offers "double check" to right and
    "might be a mistake" to wrong responses, which tells the policy its verdict); a response to be
    cut ends before its last box, answer tag or answer line (the code goes back to the paragraph
    before, and to the last "Wait"); the limit counts kept responses (the code counts some that it
    then drops); a continuation has to end by itself; and the whole has to stay within
    `max_response_length`. The code also trains right responses by likelihood, which is not here.
    Lengths in tokens are a matter of scale: the code has room 1024, min_length 30, max_length 1024.

    The old log-probs of an update are those of the policy at `temperature` for every token, so the
    first ratio is 1 although continuations are sampled at another temperature. What is reported as
    sampled (`kl_sampling`) is the distribution each token came from; for a trigger, which was not
    sampled, it is the policy's own.

    Breaks the estimate of the gradient: what is kept is not what the policy would have written.
    """

    prob: Fraction = 0.65  # of a finished response with enough room to be taken up again
    triggers: tuple[str, ...] = (
        "\n\nWait",
        "\n\nWait, does it seem right?",
        "\n\nWait, let's double check",
        "\n\nWait, there might be a mistake",
    )
    cut_answer: Fraction = 0.5  # probability that the old text ends before its last answer
    continuation_temperature: Positive = 0.9
    room: PositiveInt = 8  # tokens that have to be left after the trigger
    min_length: PositiveInt = 2  # of a kept continuation, in tokens
    max_length: PositiveInt | None = None  # the same; null: up to max_response_length
    max_hesitations: Count = 4  # "wait," and the like in a kept one, the trigger counting as one
    keep_only_correct: bool = True  # false: wrong ones are kept as well
    max_per_prompt: PositiveInt = 2  # kept ones in a group, the first of those that qualify

    def second_thought(self, noise: Generator) -> SecondThought | None:
        """Whether and how a finished response is taken up again; None: it stays as it is.

        A function of three numbers of `noise`, always drawn in the same order.
        """
        again, trigger, cut = noise.random(3)
        if again >= self.prob:
            return None
        chosen = self.triggers[int(trigger * len(self.triggers))]
        return SecondThought(chosen, bool(cut < self.cut_answer))

    def keeps(self, found: Continuation) -> bool:
        """Whether a continued response is good enough to take the place of the original."""
        if not found.finished or not self.min_length <= found.length <= self.longest:
            return False
        if 1 + len(_HESITATION.findall(found.text.lower())) > self.max_hesitations:
            return False
        return found.correct or not self.keep_only_correct

    @property
    def longest(self) -> int:
        """Tokens of the longest continuation that is kept."""
        return self.max_length or self.max_response_length

    def problems(self, run: RunSpec) -> Iterator[Problem]:
        yield from super().problems(run)
        if not self.triggers or not all(self.triggers):
            yield Problem(
                "there is no text to rethink after",
                where="triggers",
                accepted="expected one or more texts that are not empty",
            )
        if self.room >= self.max_response_length:
            yield Problem(
                f"no response of at most {self.max_response_length} tokens (max_response_length) "
                f"leaves {self.room} tokens to go on",
                where="room",
                accepted="expected fewer than max_response_length",
            )
        if self.min_length > self.longest:
            yield Problem(
                f"min_length ({self.min_length}) is more than the longest continuation "
                f"({self.longest})",
                where="min_length",
            )
