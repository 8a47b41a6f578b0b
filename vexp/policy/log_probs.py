"""The one distribution: what a token is sampled from, and what its log-prob is taken of.

Sampler and trainer both call `log_distribution`, so that the ratio of the first update is 1: banned
tokens get no probability, and the temperature is applied before the softmax.

A sampler may draw from less than that (nucleus, `ignore_eos`); the log-prob it reports is still the
one of this distribution. Trainer and sampler therefore agree at any `top_p`, and what truncation
adds is a small bias of the draws, as in every trainer that samples with `top_p < 1`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def log_distribution(logits: Tensor, banned: Tensor, temperature: float) -> Tensor:
    """Log-probs of all tokens in float32: banned ones -inf, the rest at `temperature`.

    Shapes: logits [..., vocab], banned [vocab] bool; the result is [..., vocab].
    """
    scaled = logits.float() / temperature
    return torch.log_softmax(scaled.masked_fill(banned, -torch.inf), dim=-1)


def log_probs_of(log_distribution: Tensor, tokens: Tensor) -> Tensor:
    """Log-probs of the given tokens; log_distribution [..., vocab], tokens [...]."""
    return log_distribution.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def entropy(log_distribution: Tensor) -> Tensor:
    """Exact entropy in nats of each distribution; [..., vocab] -> [...]."""
    # -inf * 0 is NaN, also in the gradient: banned tokens enter as log-prob 0 and probability 0.
    finite = log_distribution.masked_fill(log_distribution == -torch.inf, 0.0)
    return -(log_distribution.exp() * finite).sum(-1)
