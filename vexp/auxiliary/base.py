"""What an auxiliary loss is: a differentiable term beside the policy gradient."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vexp.config.types import NonNegative
from vexp.registry import Component

if TYPE_CHECKING:
    from torch import Tensor

    from vexp.experience.batch import Experience
    from vexp.policy.policy import PolicyOutput


@dataclass(frozen=True, kw_only=True)
class Auxiliary(Component):
    """A term of the loss of each update: sum(weights * token_loss), over all its micro-batches."""

    kind: ClassVar[str] = "auxiliary"

    coef: NonNegative = 1.0  # factor of the term in the loss

    @property
    def live(self) -> tuple[str, ...]:
        """Needs that have to be there with a gradient in the update itself: `attention` (rows of
        `layer` for the tokens with a weight), `counterfactual_logprobs` (with `distortion`)."""
        return ()

    @abstractmethod
    def weights(self, experience: Experience, draw: Tensor) -> Tensor:  # [rollout, token] float32
        """The weight of each token's loss, from all responses of one update.

        `draw` [rollout, token] holds uniform numbers for components that sample tokens. A response
        whose weights are all 0 may be left out of the update.
        """

    def metrics(self, experience: Experience) -> dict[str, float]:
        """What to log of the responses of a step, by name (`auxiliary/<its name>/...`)."""
        return {}

    @abstractmethod
    def token_loss(self, output: PolicyOutput, batch: Experience) -> Tensor:  # [rollout, token]
        """The unweighted loss of each token of a micro-batch, with gradient; finite everywhere."""
