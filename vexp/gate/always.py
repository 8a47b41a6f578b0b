"""Every response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vexp.gate.base import Gate
from vexp.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from vexp.experience.batch import Experience


@register("gate", "always")
@dataclass(frozen=True, kw_only=True)
class Always(Gate):
    """Open for all responses, right or wrong: EASE's ablation without a gate.

    Breaks when most responses are wrong: the loss then also shapes reasoning that failed.
    """

    def open(self, experience: Experience) -> Tensor:  # [rollout] bool
        import torch

        return torch.ones_like(experience.rewards, dtype=torch.bool)
