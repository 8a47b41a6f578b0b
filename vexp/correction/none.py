"""The sampler's log-probs are taken to be the trainer's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vexp.correction.base import Correction
from vexp.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("correction", "none")
@dataclass(frozen=True, kw_only=True)
class Uncorrected(Correction):
    """No correction. The difference is logged all the same, as `mismatch/*`."""

    def weights(
        self, logprobs: Tensor, sampling_logprobs: Tensor, mask: Tensor
    ) -> Tensor | None:  # [rollout, token]
        return None
