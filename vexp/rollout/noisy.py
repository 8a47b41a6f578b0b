"""NoisyRollout: some of a group's responses are sampled from a distorted image."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from vexp.config.types import Between, NonNegative, Positive, PositiveInt
from vexp.distortion.base import Distortion
from vexp.errors import Problem
from vexp.registry import register, slot
from vexp.rollout.base import Draw, RolloutMethod

if TYPE_CHECKING:
    from vexp.spec.run import RunSpec

DecayBase = Annotated[float, Between(0, 1, low_open=True, high_open=True)]


@register("rollout", "noisy")
@dataclass(frozen=True, kw_only=True)
class Noisy(RolloutMethod):
    """`group_size` responses to the image and `noisy_size` to a distorted one, in one group.

    Liu et al. 2025, "NoisyRollout" (arXiv 2504.13055). Mean and standard deviation are those of all
    responses together, and all log-probs of the update are those with the image as it is, without
    a correction for where a response was sampled. A prompt's noisy responses share one draw of the
    distortion, whose strength falls from 1 to 0 with x = step / `rl.steps`:

        sigmoid      1 - 1 / (1 + exp(-steepness (x - midpoint / rl.steps)))
        power        1 - x^power
        linear       1 - x
        exponential  1 - base^(rl.steps - step)

    The paper's runs use the first; power and base are ours. The released run also freezes the
    vision tower, has no KL, and adds a small entropy bonus.

    Breaks with noise so strong that what a response says cannot be seen: the update then teaches to
    guess. `midpoint` counts steps, so in a run not much longer than it the noise stays to the end.
    """

    noisy_size: PositiveInt | None = None  # responses to the distorted image; null: group_size
    distortion: Distortion = slot("distortion", "diffusion_noise")  # at full strength
    decay: Literal["sigmoid", "power", "linear", "exponential"] = "sigmoid"  # of its strength
    steepness: Positive = 30.0  # sigmoid: lambda; the paper has 30 for Geo3K and 60 for K12
    midpoint: NonNegative = 40.0  # sigmoid: step at which half of the strength is left
    power: Positive = 2.0  # power: exponent
    base: DecayBase = 0.9  # exponential: the nearer to 1, the earlier the noise falls

    @property
    def responses_per_prompt(self) -> int:
        return self.group_size + (self.noisy_size or self.group_size)

    def draws(self, step: int, steps: int) -> tuple[Draw, ...]:
        weaker = self.distortion.at(self.strength(step, steps))
        return Draw(self.group_size), Draw(self.noisy_size or self.group_size, weaker)

    def strength(self, step: int, steps: int) -> float:
        """The share of the distortion's strength, from 1 down to 0, in step `step` of `steps`."""
        x = step / steps
        if self.decay == "sigmoid":
            z = self.steepness * (x - self.midpoint / steps)
            return (1 - math.tanh(z / 2)) / 2  # 1 - 1 / (1 + exp(-z)), which can overflow
        if self.decay == "power":
            return 1 - math.pow(x, self.power)
        if self.decay == "linear":
            return 1 - x
        return 1 - math.pow(self.base, steps - step)

    def problems(self, run: RunSpec) -> Iterator[Problem]:
        if self.distortion.per_rollout:
            yield Problem(
                "this distortion draws anew for each response, but all noisy responses of a prompt "
                "are sampled from one image",
                where="distortion",
                remedy="set distortion.per=prompt where it has that, or choose another one",
            )
