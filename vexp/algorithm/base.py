"""What an algorithm is: baseline, normalisation, clipping, aggregation and KL of one update.

The functions below are the pieces algorithms are made of, pure and shared. They use tensor methods
only, so that composing a run never imports torch.
"""

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

DualClip = Annotated[float, Between(1, low_open=True)]

LOG_RATIO_LIMIT = 20.0  # log-ratios are clamped to this before exp
KL_LIMIT = 10.0  # and one token's KL estimate to this
EQUAL_REWARDS = 1e-12  # rewards this close, relative to their size, are the same reward


@dataclass(frozen=True, kw_only=True)
class Algorithm(Component):
    """Turns rewards into advantages, and advantages and ratios into a loss per token."""

    kind: ClassVar[str] = "algorithm"

    clip_low: Fraction = 0.2  # the ratio is clipped below at 1 - clip_low
    clip_high: NonNegative = 0.2  # and above at 1 + clip_high
    dual_clip: DualClip | None = None  # a negative advantage's loss is at most this times |A|
    kl_coef: NonNegative = 0.0  # weight of the k3 estimate of the KL to the reference policy
    aggregation: Aggregation = "token-mean"  # how token losses become the loss of an update

    def required(self) -> tuple[str, ...]:
        return (*self.needs, "reference_logprobs") if self.kl_coef > 0 else self.needs

    @abstractmethod
    def advantages(self, rewards: Tensor, group: Tensor) -> Tensor:  # [rollout]
        """Outcome advantage of each rollout within its group; `group` is the prompt's index."""

    def ratio(self, logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
        """What the surrogate clips: how much likelier each token has become; 1 outside the mask."""
        change = (logprobs - old_logprobs).masked_fill(~mask, 0.0)
        return change.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()

    def token_loss(
        self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor
    ) -> Tensor:  # [rollout, token]
        """The clipped surrogate, one (unaveraged) loss per token; shapes all [rollout, token]."""
        ratio = self.ratio(logprobs, old_logprobs, mask)
        return clipped_surrogate(ratio, advantages, self.clip_low, self.clip_high, self.dual_clip)

    def token_weights(self, mask: Tensor, max_response_length: int) -> Tensor:  # [rollout, token]
        """Weights w such that the loss of an update is sum(w * token_loss).

        They are computed from the mask of the whole update, so that summing over micro-batches of
        any size gives the same loss.
        """
        return aggregation_weights(mask, self.aggregation, max_response_length)


@dataclass(frozen=True, kw_only=True)
class GroupNormalised(Algorithm):
    """Algorithms whose advantage is the reward, standardised within its group."""

    std_eps: Positive = 1e-6  # added to the group's standard deviation

    def advantages(self, rewards: Tensor, group: Tensor) -> Tensor:  # [rollout]
        return standardised(rewards, group, self.std_eps)


def standardised(rewards: Tensor, group: Tensor, std_eps: float) -> Tensor:  # [rollout]
    """(R - mean) / (std + eps) within each group, std with n - 1; exactly 0 for equal rewards."""
    deviation = centred(rewards.double(), group)
    counts = _group_sum(deviation.new_ones(deviation.shape), group)
    variance = _group_sum(deviation.square(), group) / (counts - 1).clamp(min=1)
    return (deviation / (variance.sqrt() + std_eps)[group]).to(rewards.dtype)


def centred(rewards: Tensor, group: Tensor) -> Tensor:  # [rollout]
    """R - mean within each group; exactly 0 for equal rewards, whatever their mean rounds to."""
    exact = rewards.double()
    counts = _group_sum(exact.new_ones(exact.shape), group)
    mean = _group_sum(exact, group) / counts.clamp(min=1)
    deviation = exact - mean[group]
    return deviation.masked_fill(equal_rewards(rewards, group)[group], 0.0).to(rewards.dtype)


def equal_rewards(rewards: Tensor, group: Tensor) -> Tensor:  # [group] bool
    """Groups whose rollouts all earned the same, so that nothing can be learned from them."""
    exact = rewards.double()
    empty = exact.new_zeros(_group_count(group))
    low = empty.scatter_reduce(0, group, exact, "amin", include_self=False)
    high = empty.scatter_reduce(0, group, exact, "amax", include_self=False)
    size = low.abs().maximum(high.abs()).clamp(min=1.0)
    return high - low <= EQUAL_REWARDS * size


def clipped_surrogate(
    ratio: Tensor, advantages: Tensor, low: float, high: float, dual_clip: float | None = None
) -> Tensor:
    """-min(r A, clip(r, 1 - low, 1 + high) A), bounded by `dual_clip` * |A| where A < 0.

    PPO, Schulman et al. 2017, eq. 7; dual clipping: Ye et al. 2020, "Mastering Complex Control in
    MOBA Games", eq. 6. Elementwise.
    """
    loss = -(ratio * advantages).minimum(ratio.clamp(1 - low, 1 + high) * advantages)
    if dual_clip is None:
        return loss
    return loss.minimum(-dual_clip * advantages).where(advantages < 0, loss)


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(policy || reference) per sampled token, clamped.

    exp(d) - d - 1 with d = log reference - log policy: unbiased when the policy itself sampled.
    """
    d = (reference - logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return (d.expm1() - d).clamp(-KL_LIMIT, KL_LIMIT)


def aggregation_weights(
    mask: Tensor, aggregation: Aggregation, max_response_length: int
) -> Tensor:  # [rollout, token] float32
    """Weight of each token's loss in the loss of an update that has exactly these responses.

    A response without tokens counts as a sequence and contributes 0.
    """
    valid = mask.double()
    lengths = valid.sum(dim=1, keepdim=True)
    sequences = max(1, mask.shape[0])
    if aggregation == "token-mean":
        weights = valid / lengths.sum().clamp(min=1)
    elif aggregation == "seq-mean-token-mean":
        weights = valid / (lengths.clamp(min=1) * sequences)
    elif aggregation == "seq-mean-token-sum":
        weights = valid / sequences
    else:
        weights = valid / (sequences * max_response_length)
    return weights.float()


def _group_count(group: Tensor) -> int:
    return int(group.max()) + 1 if group.numel() else 0


def _group_sum(values: Tensor, group: Tensor) -> Tensor:  # [group]
    return values.new_zeros(_group_count(group)).index_add(0, group, values)
