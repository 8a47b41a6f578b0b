"""Both losses on the same log-probs, advantages and mask: no model runs."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.differences import SAME, Difference, Side, difference, trl_settings
from benchmarks.trl_side import make_trainer
from benchmarks.workload import Workload
from vexp.experience.batch import Experience
from vexp.policy.policy import PolicyOutput
from vexp.registry import REGISTRY
from vexp.train.objective import loss_and_counts

if TYPE_CHECKING:
    from trl import GRPOTrainer

TOLERANCE = 1e-6


def compare(folder: Path, suppress: list[int], workload: Workload) -> Iterator[Difference]:
    """Loss and gradient of every algorithm at its defaults, in one micro-batch and in two."""
    rows = workload.prompts * workload.group_size
    for name in SAME:
        algorithm: Any = REGISTRY.get("algorithm", name)()
        batch, logprobs = random_batch(algorithm, workload)
        for parts in (1, 2):
            settings = trl_settings(workload, folder, suppress, rows // parts, name)
            with tempfile.TemporaryDirectory() as output:
                trainer = make_trainer(settings, output)
            trainer.beta = SAME[name].get("beta", 0.0)
            size = rows // parts
            portions = [slice(start, start + size) for start in range(0, rows, size)]
            ours = our_side(algorithm, batch, logprobs, portions)
            trl = trl_side(trainer, batch, logprobs, portions)
            label = name if parts == 1 else f"{name}, {parts} micro-batches"
            yield difference(label, ours, trl, batch.mask, TOLERANCE)


def random_batch(algorithm: Any, workload: Workload) -> tuple[Experience, Tensor]:
    """Ragged responses with ratios on both sides of every clip bound, and their new log-probs."""
    generator = torch.Generator().manual_seed(0)
    rows, length = workload.prompts * workload.group_size, workload.length
    lengths = torch.randint(1, length + 1, (rows, 1), generator=generator)
    lengths[0] = length
    mask = torch.arange(length) < lengths
    old = -2.0 * torch.rand(rows, length, generator=generator)
    spread = 0.8 if algorithm.clip_high > 0.01 else 4e-3  # GSPO's bounds are narrow
    logprobs = old + spread * torch.randn(rows, length, generator=generator)
    group = torch.arange(workload.prompts).repeat_interleave(workload.group_size)
    rewards = torch.rand(rows, generator=generator, dtype=torch.float64)
    outcome = algorithm.advantages(rewards, group).float()
    batch = Experience(
        prompts=None,  # type: ignore[arg-type]  # no model runs
        group=group,
        tokens=torch.ones(rows, length, dtype=torch.int64),
        mask=mask,
        rewards=rewards,
        sampling_logprobs=old,
        old_logprobs=old,
        # Near enough that no token's KL reaches the bound at which ours is clamped.
        reference_logprobs=logprobs + 0.4 * torch.randn(rows, length, generator=generator),
        advantages=outcome[:, None] * mask,
        weights=algorithm.token_weights(mask, length),
    )
    return batch, logprobs


def our_side(algorithm: Any, batch: Experience, logprobs: Tensor, portions: list[slice]) -> Side:
    """Our loss, summed over micro-batches."""
    leaf, total = logprobs.clone().requires_grad_(), 0.0
    for rows in portions:
        tensors: dict[str, Any] = {
            field.name: value[rows]
            for field in dataclasses.fields(batch)
            if isinstance(value := getattr(batch, field.name), Tensor)
        }
        part = dataclasses.replace(batch, **tensors)
        loss, _ = loss_and_counts(algorithm, PolicyOutput(leaf[rows]), part)
        torch.autograd.backward(loss)
        total += float(loss)
    return Side(total, [leaf.grad * batch.mask])  # type: ignore[operator]


def trl_side(
    trainer: GRPOTrainer, batch: Experience, logprobs: Tensor, portions: list[slice]
) -> Side:
    """TRL's loss, summed over micro-batches; its forward pass returns the given log-probs."""
    leaf, total = logprobs.clone().requires_grad_(), 0.0
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = len(portions)
    for rows in portions:
        trainer._get_per_token_logps_and_entropies = _returning(leaf[rows])
        loss = trainer._compute_loss(trainer.model, _inputs(batch, rows))
        loss.backward()
        total += float(loss)
    return Side(total, [leaf.grad * batch.mask])  # type: ignore[operator]


def _inputs(batch: Experience, rows: slice) -> dict[str, Tensor]:
    assert batch.advantages is not None and batch.old_logprobs is not None
    assert batch.reference_logprobs is not None
    return {
        "prompt_ids": batch.tokens[rows, :1],
        "prompt_mask": batch.tokens[rows, :1],
        "completion_ids": batch.tokens[rows],
        "completion_mask": batch.mask[rows].long(),
        "advantages": batch.advantages[rows, 0],
        "num_items_in_batch": batch.mask.sum(),
        "old_per_token_logps": batch.old_logprobs[rows],
        "ref_per_token_logps": batch.reference_logprobs[rows],
    }


def _returning(logprobs: Tensor) -> Callable[..., tuple[Tensor, Tensor, None]]:
    return lambda *_, **__: (logprobs, torch.zeros_like(logprobs), None)
