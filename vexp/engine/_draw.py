"""Drawing one token per row from its distribution, with one given uniform number per row."""

from __future__ import annotations

import torch
from torch import Tensor

from vexp.engine.base import Sampling


def choose(
    distribution: Tensor, uniform: Tensor | None, sampling: Sampling, eos_id: int
) -> Tensor:  # [row]
    """The next token of each row, drawn with its own uniform number, or the most likely one."""
    if sampling.ignore_eos:
        distribution = distribution.clone()
        distribution[:, eos_id] = -torch.inf
    if uniform is None:
        return distribution.argmax(-1)
    return draw(distribution, uniform, sampling.top_p)


def draw(log_distribution: Tensor, uniform: Tensor, top_p: float = 1.0) -> Tensor:  # [row]
    """Inverse-CDF sampling: log_distribution [row, vocab], uniform [row] in [0, 1).

    The token is a function of its own row alone. A token of probability 0 is never drawn: the
    cumulative sum does not rise at it, and the draw is the first place that exceeds the target.
    The sum is in float64, where it exceeds every target below its total. Probabilities that are no
    numbers give the last token, whose log-prob then tells that the policy has diverged.
    """
    probabilities = log_distribution.double().exp()
    if top_p < 1:
        probabilities = nucleus(probabilities, top_p)
    cumulative = probabilities.cumsum(-1)
    target = uniform.to(cumulative) * cumulative[:, -1]
    place = torch.searchsorted(cumulative, target.unsqueeze(-1), right=True).squeeze(-1)
    return place.clamp(max=probabilities.shape[1] - 1)


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Zero all but the fewest most likely tokens that hold `top_p` of the mass; not renormalised.

    (Holtzman et al., arXiv:1904.09751.) The most likely token always stays.
    """
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    kept = torch.zeros_like(ordered).masked_scatter(before < top_p, ordered[before < top_p])
    kept[:, 0] = ordered[:, 0]
    return torch.zeros_like(probabilities).scatter(-1, order, kept)
