"""AdamW with a ramp and a schedule: one update, and what it reports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import AdamW, Optimizer

from vexp.errors import ConfigError, Diverged, Problem
from vexp.policy.sharding import unsharded_tensor
from vexp.policy.zero import ZeroAdamW
from vexp.spec.run import FrozenPart, Optimization, Shard
from vexp.train.optimizer_bf16 import SplitAdamW

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn


def make_optimizer(model: nn.Module, settings: Optimization, shard: Shard = "none") -> Optimizer:
    """Freeze what the settings say; AdamW over the rest. Biases and norms (1-D) do not decay.

    With `shard` a stage of ZeRO it is DeepSpeed that spreads AdamW's moments over the processes.
    Weights in bfloat16 get an AdamW that does not round their updates away.

    Raises:
        ConfigError: if a package that this needs is not installed.
    """
    freeze(model, settings.freeze)
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    rate, betas = settings.learning_rate, (settings.beta1, settings.beta2)
    if settings.optimizer == "adamw_8bit":
        found: Optimizer = _eight_bit()(groups, lr=rate, betas=betas)
        return found
    if shard in ("zero1", "zero2"):
        limit = settings.max_grad_norm
        zero = ZeroAdamW(groups, lr=rate, betas=betas, stage=int(shard[-1]), limit=limit)
        model.zero = zero  # type: ignore[assignment]
        return zero
    if any(p.dtype == torch.bfloat16 for p in trainable):
        return SplitAdamW(groups, lr=rate, betas=betas)
    return AdamW(groups, lr=rate, betas=betas, fused=True)


def _eight_bit() -> Any:
    """AdamW whose moments have 8 bits (Dettmers et al., arXiv:2110.02861)."""
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ConfigError(
            Problem(
                "adamw_8bit needs the package bitsandbytes, which is not installed",
                where="optimizer",
                remedy="install vexp[bnb], or set optimizer=adamw",
            )
        ) from error
    return AdamW8bit


def freeze(policy: nn.Module, parts: Sequence[FrozenPart]) -> None:
    """Take parts of a policy's model out of training: no gradient, moments or weight decay.

    `vision` is the whole vision tower with what merges its patches into image tokens where that is
    a part of it, as in the Qwen family; a projector beside the tower goes on learning. Since no
    gradient flows into it, its forward pass is not recorded either.

    Raises:
        ConfigError: if the model has no vision tower that can be told apart.
    """
    if "vision" in parts:
        model: Any = policy.model
        tower = model.get_encoder("image")
        if tower in (model, model.base_model):
            raise ConfigError(
                Problem(
                    f"{type(model).__name__} has no vision tower that could be frozen",
                    where="freeze",
                    remedy="leave `vision` out of rl.freeze and warm_start.freeze",
                )
            )
        tower.requires_grad_(False)


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
    floor = settings.min_lr_ratio
    return settings.learning_rate * ramp * (floor + (1.0 - floor) * decay)


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
    for group in optimizer.param_groups:
        group["lr"] = rate
    zero = getattr(model, "zero", None)
    if zero is not None:
        zero.step()  # clips, and does nothing where the norm is not finite
        value = float(zero.norm)
    else:
        norm = accelerator.clip_grad_norm_(
            list(model.parameters()), math.inf if limit is None else limit
        )
        value = float(
            unsharded_tensor(norm).item() if isinstance(norm, torch.Tensor) else norm or 0.0
        )
    if not math.isfinite(value):
        raise diverged("the norm of the gradient", value, where)
    if zero is None:
        optimizer.step()
    return value


def diverged(what: str, value: float, where: str) -> Diverged:
    """The error for a number that is no longer one."""
    return Diverged(
        f"training diverged: {what} is {value}",
        where=where,
        remedy="lower the learning rate or raise ramp_steps; the last checkpoint is intact",
    )
