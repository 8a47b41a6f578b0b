"""Pieces of the losses that supervise attention: targets, rows, and the divergence between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vexp.experience.evidence import layout_target

if TYPE_CHECKING:
    from vexp.experience.batch import Experience
    from vexp.policy.policy import PolicyOutput
    from vexp.target.base import Target


def with_evidence(experience: Experience) -> Tensor:  # [rollout] bool
    """Rollouts whose prompt has an image and at least one valid box."""
    pairs = zip(experience.evidence or (), experience.layouts or (), strict=True)
    known = [bool(boxes) and bool(layout) for boxes, layout in pairs]
    return torch.tensor(known, device=experience.group.device)[experience.group]


def sampled(mask: Tensor, draw: Tensor, count: int) -> Tensor:  # [rollout, token] bool
    """At most `count` valid tokens of each response: those with the smallest uniform numbers."""
    order = draw.masked_fill(~mask, torch.inf).argsort(dim=1).argsort(dim=1)
    return mask & (order < count)


def targets(target: Target, batch: Experience, tokens: int) -> Tensor:  # [rollout, image token]
    """The target of each rollout; zeros where there is none."""
    rows = torch.zeros(len(batch.prompts), tokens)
    pairs = zip(batch.evidence or (), batch.layouts or (), strict=True)
    for index, (boxes, layout) in enumerate(pairs):
        if boxes and layout:
            goal = layout_target(target, boxes, layout)
            rows[index, : len(goal)] = goal
    return rows.to(batch.group.device)[batch.group]


def attended(logits: Tensor) -> Tensor:  # [rollout, row, image token]
    """Softmax over the image keys of each head, then the mean over heads; 0 without an image.

    logits [rollout, head, row, image token], -inf where there is no image token.
    """
    empty = logits.detach().amax(dim=-1, keepdim=True).isneginf()
    if not bool(empty.any()):
        return logits.softmax(-1).mean(dim=1)
    # Rows without an image get equal logits first: NaN would poison the gradient of all others.
    return logits.masked_fill(empty, 0.0).softmax(-1).masked_fill(empty, 0.0).mean(dim=1)


def divergence(
    logits: Tensor, target: Tensor, direction: str, floor: float
) -> Tensor:  # [rollout, row] nats
    """KL between attention and target, in the direction asked for; 0 where there is no target."""
    model = attended(logits)
    goal = target.unsqueeze(1)
    log_model = (model + 1e-12).log()
    log_goal = goal.clamp(min=floor or 1e-30).log()
    if direction == "model_to_target":
        terms = model * (log_model - log_goal)
    else:
        terms = goal * (log_goal - log_model)
    return terms.sum(-1).masked_fill(target.sum(-1, keepdim=True) == 0, 0.0)


def per_token(values: Tensor, output: PolicyOutput, batch: Experience) -> Tensor:
    """Values [rollout, row] at the tokens that the rows belong to; 0 at all others."""
    if output.rows is None:
        return values
    empty = torch.zeros(batch.mask.shape, dtype=values.dtype, device=values.device)
    return empty.scatter(1, output.rows, values)
