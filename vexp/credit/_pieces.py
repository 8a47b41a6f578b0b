"""Means and ranges over the tokens of a response and the rollouts of a group.

Pure functions in double precision, of tensor methods only. What lies outside a mask may hold
anything, NaN included: it never takes part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from vexp.experience.batch import Experience

ROUNDING = 1e-9  # (1 - 0.9) * 10 is less than 1 in floating point, 0.29 * 100 less than 29


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """The values as constants in double precision, 0 outside the mask."""
    return values.detach().double().masked_fill(~mask, 0.0)


def token_mean(values: Tensor, mask: Tensor) -> Tensor:  # [rollout, 1]
    """Mean over the masked tokens of each response; 0 for a response without any."""
    lengths = mask.sum(dim=1, keepdim=True)
    return masked(values, mask).sum(dim=1, keepdim=True) / lengths.clamp(min=1)


def min_max(values: Tensor, mask: Tensor, eps: float) -> Tensor:  # [rollout, token]
    """(v - min) / (max - min + eps) over the masked tokens of each response; 0 outside."""
    exact = values.detach().double()
    low = exact.masked_fill(~mask, float("inf")).amin(dim=1, keepdim=True)
    high = exact.masked_fill(~mask, float("-inf")).amax(dim=1, keepdim=True)
    return masked((exact - low) / (high - low + eps), mask)


def group_min_max(values: Tensor, group: Tensor, chosen: Tensor, eps: float) -> Tensor:
    """(v - min) / (max - min + eps) over the chosen rollouts of each group; 0 for the others.

    `values` [rollout], `group` [rollout] the prompt's index, `chosen` [rollout] bool.
    """
    own, index = values[chosen], group[chosen]
    empty = values.new_zeros(_group_count(group))
    low = empty.scatter_reduce(0, index, own, "amin", include_self=False)[index]
    high = empty.scatter_reduce(0, index, own, "amax", include_self=False)[index]
    return _spread_out((own - low) / (high - low + eps), chosen)


def group_mean(values: Tensor, group: Tensor, chosen: Tensor) -> Tensor:  # [rollout]
    """Mean over the chosen rollouts of a rollout's group; 0 for the others."""
    own, index = values[chosen], group[chosen]
    empty = values.new_zeros(_group_count(group))
    sums = empty.index_add(0, index, own)
    counts = empty.index_add(0, index, own.new_ones(own.shape))
    return _spread_out(sums[index] / counts[index], chosen)


def with_image(experience: Experience) -> Tensor:  # [rollout] bool
    """Responses that a signal of the image can tell apart: to an image, and not empty."""
    nonempty = experience.mask.any(dim=1)
    return nonempty if experience.has_image is None else nonempty & experience.has_image


def share(chosen: Tensor, mask: Tensor) -> float:
    """Share of the masked tokens that are chosen; 0 if there are no tokens."""
    return int((chosen & mask).sum()) / max(1, int(mask.sum()))


def _spread_out(own: Tensor, chosen: Tensor) -> Tensor:  # [rollout]
    return own.new_zeros(chosen.shape).masked_scatter(chosen, own)


def _group_count(group: Tensor) -> int:
    return int(group.max()) + 1 if group.numel() else 0
