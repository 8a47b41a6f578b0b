"""AdamW with a ramp and a schedule: one update, and what it reports."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.optim import AdamW, Optimizer

from vexp.errors import Diverged
from vexp.spec import Optimization

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn


def make_optimizer(model: nn.Module, settings: Optimization) -> AdamW:
    """AdamW over the trainable parameters; biases and norms (1-D) do not decay."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        fused=True,
    )


def learning_rate(settings: Optimization, update: int, done: float) -> float:
    """The rate of optimiser step `update` (from 1), when a fraction `done` of the stage is over.

    The schedule follows the stage's steps, not its updates: dynamic sampling may skip an update.
    """
    ramp = min(1.0, update / max(1, settings.ramp_steps))
    decay = {
        "constant": 1.0,
        "linear": 1.0 - done,
        "cosine": (1.0 + math.cos(math.pi * done)) / 2,
    }[settings.schedule]
    return settings.learning_rate * ramp * decay


def apply_gradients(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: Optimizer,
    rate: float,
    limit: float | None,
    *,
    where: str,
) -> float:
    """Clip the gradients to the norm `limit` and step at `rate`; returns the norm before clipping.

    Raises:
        Diverged: if the gradient is not finite; the weights are then as before.
    """
    norm = accelerator.clip_grad_norm_(
        list(model.parameters()), math.inf if limit is None else limit
    )
    value = float(norm.item() if isinstance(norm, torch.Tensor) else norm or 0.0)
    if not math.isfinite(value):
        raise diverged("the norm of the gradient", value, where)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return value


def diverged(what: str, value: float, where: str) -> Diverged:
    """The error for a number that is no longer one."""
    return Diverged(
        f"training diverged: {what} is {value}",
        where=where,
        remedy="lower the learning rate or raise ramp_steps; the last checkpoint is intact",
    )
