"""What a correction is: what is done about a sampler that is not quite the policy that learns."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vexp.registry import Component

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Correction(Component):
    """Weighs tokens by how likely they were for the trainer and for the sampler."""

    kind: ClassVar[str] = "correction"

    @abstractmethod
    def weights(
        self, logprobs: Tensor, sampling_logprobs: Tensor, mask: Tensor
    ) -> Tensor | None:  # [rollout, token]
        """What each token's surrogate loss is multiplied with, without gradient; None: nothing.

        `logprobs` are the trainer's of the policy that sampled, `sampling_logprobs` the engine's;
        all are [rollout, token].
        """
