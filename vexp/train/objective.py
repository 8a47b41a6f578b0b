"""The loss of one update, over micro-batches of any size, and what is counted on the way."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vexp.algorithm.base import LOG_RATIO_LIMIT, Algorithm, k3
from vexp.auxiliary.base import Auxiliary
from vexp.correction.base import Correction
from vexp.train.auxiliary import added

if TYPE_CHECKING:
    from vexp.experience.batch import Experience
    from vexp.policy.policy import PolicyOutput

MISMATCH_MAX = "mismatch_max"


def loss_and_counts(
    algorithm: Algorithm,
    output: PolicyOutput,
    batch: Experience,
    auxiliary: Mapping[str, Auxiliary] = MappingProxyType({}),
    correction: Correction | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The batch's share of the update's loss, and sums over its tokens for the log.

    What is called `MISMATCH_MAX` is no sum but a maximum.

    `output.logprobs` [rollout, token] carries the gradient; `batch` has its advantages and weights.
    Summed over the micro-batches of an update, the first is the loss of the whole update.
    """
    logprobs = output.logprobs
    if batch.advantages is None or batch.weights is None:
        raise ValueError("a batch needs advantages and weights before it has a loss")
    logprobs = logprobs.masked_fill(~batch.mask, 0.0)
    old = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
    loss = algorithm.token_loss(logprobs, old, batch.advantages, batch.mask)
    if correction is not None:
        trust = correction.weights(old, batch.sampling_logprobs, batch.mask)
        loss = loss if trust is None else loss * trust
    counts = _counts(algorithm, logprobs.detach(), batch) | _mismatch(old, batch)
    if algorithm.kl_coef > 0 and batch.reference_logprobs is not None:
        kl = k3(logprobs, batch.reference_logprobs)
        loss = loss + algorithm.kl_coef * kl
        counts["kl_reference"] = kl.detach().masked_fill(~batch.mask, 0.0).sum()
    total = (batch.weights * loss.masked_fill(~batch.mask, 0.0)).sum()
    counts["loss"] = total.detach()
    total, further = added(total, auxiliary, output, batch)
    return total, counts | further


@torch.no_grad()
def _mismatch(trainer: Tensor, batch: Experience) -> dict[str, Tensor]:
    """How far the engine's log-probs are from the trainer's of the policy that sampled."""
    change = (trainer - batch.sampling_logprobs).masked_fill(~batch.mask, 0.0).double()
    weight = change.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp() * batch.mask
    return {
        "mismatch": change.abs().sum(),
        MISMATCH_MAX: change.abs().amax() if change.numel() else change.sum(),
        "mismatch_weight": weight.sum(),
        "mismatch_square": weight.square().sum(),
    }


@torch.no_grad()
def _counts(algorithm: Algorithm, logprobs: Tensor, batch: Experience) -> dict[str, Tensor]:
    """Sums over tokens; the KL to the policy that sampled is k3's, on that policy's own samples."""
    kl = k3(batch.sampling_logprobs, logprobs).masked_fill(~batch.mask, 0.0)
    counts = {"tokens": batch.mask.sum(), "kl_sampling": kl.sum()}
    if batch.old_logprobs is None or batch.advantages is None:
        return counts  # the ratio is 1 everywhere: nothing can be clipped
    ratio = algorithm.ratio(logprobs, batch.old_logprobs, batch.mask)
    low = (ratio < 1 - algorithm.clip_low) & (batch.advantages < 0) & batch.mask
    high = (ratio > 1 + algorithm.clip_high) & (batch.advantages > 0) & batch.mask
    return counts | {"clip_low": low.sum(), "clip_high": high.sum()}
