"""What a rollout method is: how a group of responses to one prompt is sampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vexp.config.types import Fraction, Positive, PositiveInt
from vexp.registry import Component


@dataclass(frozen=True, kw_only=True)
class RolloutMethod(Component):
    """Sampling settings shared by every rollout method."""

    kind: ClassVar[str] = "rollout"

    group_size: PositiveInt = 8  # responses per prompt
    temperature: Positive = 1.0  # divides the logits, when sampling and when training
    top_p: Fraction = 1.0  # nucleus; 1 keeps every token that is not banned
    max_response_length: PositiveInt = 24  # tokens, the end-of-sequence token included
