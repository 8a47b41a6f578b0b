"""What a rollout method is: how a group of responses to one prompt is sampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vexp.config.types import Fraction, Positive, PositiveInt
from vexp.distortion.base import Distortion
from vexp.registry import Component


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
