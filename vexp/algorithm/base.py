"""What an algorithm is: baseline, normalisation, clipping, aggregation and KL of one update."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from vexp.config.types import Between, Fraction, NonNegative, Positive
from vexp.registry import Component

if TYPE_CHECKING:
    from torch import Tensor

Aggregation = Literal[
    "token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"
]


@dataclass(frozen=True, kw_only=True)
class Algorithm(Component):
    """Turns rewards into advantages, and advantages and ratios into a loss per token."""

    kind: ClassVar[str] = "algorithm"

    clip_low: Fraction = 0.2  # the ratio is clipped below at 1 - clip_low
    clip_high: NonNegative = 0.2  # and above at 1 + clip_high
    dual_clip: Annotated[float, Between(1, low_open=True)] | None = None  # bound of a negative advantage's loss, as a multiple of |A|
    kl_coef: NonNegative = 0.0  # weight of the k3 estimate of the KL to the reference policy
    aggregation: Aggregation = "token-mean"
    std_eps: Positive = 1e-6  # added to the group's standard deviation

    def required(self) -> tuple[str, ...]:
        return (*self.needs, "reference_logprobs") if self.kl_coef > 0 else self.needs

    @abstractmethod
    def advantages(self, rewards: Tensor, group: Tensor) -> Tensor:  # [rollout]
        """Outcome advantage of each rollout within its group; `group` is the prompt's index."""

    @abstractmethod
    def token_loss(
        self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor
    ) -> Tensor:  # [rollout, token]
        """The clipped surrogate, one (unaveraged) loss per token; shapes all [rollout, token]."""

    @abstractmethod
    def token_weights(self, mask: Tensor, max_response_length: int) -> Tensor:  # [rollout, token]
        """Weights w such that the loss of an update is sum(w * token_loss).

        They are computed from the mask of the whole update, so that summing over micro-batches of
        any size gives the same loss.
        """
