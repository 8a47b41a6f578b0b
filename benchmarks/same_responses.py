"""Both whole ways to a loss on the same responses: prompts, images, model, log-probs, gradients."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.differences import Difference, Side, difference, trl_settings
from benchmarks.trl_side import make_trainer
from benchmarks.workload import Workload
from vexp.experience.batch import Experience, forward
from vexp.registry import REGISTRY
from vexp.train.collect import collect, to_experience
from vexp.train.objective import loss_and_counts
from vexp.train.timing import Clock

if TYPE_CHECKING:
    from trl import GRPOTrainer

    from vexp.policy.policy import Policy

TOLERANCE = 5e-5  # two orders of float32 arithmetic through a whole model
NOISE = 0.3  # of the old log-probs, so that some ratios are clipped


def compare(folder: Path, suppress: list[int], workload: Workload) -> Iterator[Difference]:
    """One batch of sampled responses through both sides, for three aggregations of its tokens."""
    run = workload.run()
    policy = run.backbone.load(folder / "model")
    collected = collect(run, policy, step=1, cursor=0, clock=Clock())
    sampled = to_experience(run, policy, collected)
    if sampled is None:
        raise RuntimeError("no group was kept")
    # TRL's trainer takes log-probs over the whole vocabulary, whatever was suppressed in sampling.
    policy.banned.zero_()
    for name in ("grpo", "dapo", "dr_grpo"):
        settings = trl_settings(workload, folder, suppress, len(sampled), name)
        with tempfile.TemporaryDirectory() as output:
            trainer = make_trainer(settings, output)
        shipped: Any = REGISTRY.get("algorithm", name)()
        algorithm = dataclasses.replace(shipped, kl_coef=0.0)
        batch = with_advantages(algorithm, sampled, workload.length)
        ours = our_side(policy, algorithm, batch)
        trl = trl_side(trainer, batch)
        yield difference(f"{name}, whole model", ours, trl, batch.mask, TOLERANCE)


def with_advantages(algorithm: Any, sampled: Experience, length: int) -> Experience:
    """The responses with advantages, weights, and old log-probs that differ from the policy's."""
    generator = torch.Generator().manual_seed(0)
    noise = NOISE * torch.randn(sampled.tokens.shape, generator=generator)
    outcome = algorithm.advantages(sampled.rewards, sampled.group).float()
    return dataclasses.replace(
        sampled,
        old_logprobs=sampled.sampling_logprobs + noise,
        advantages=outcome[:, None] * sampled.mask,
        weights=algorithm.token_weights(sampled.mask, length),
    )


def our_side(policy: Policy, algorithm: Any, batch: Experience) -> Side:
    """Loss and gradients by our forward pass."""
    policy.zero_grad()
    output = forward(policy, batch, temperature=1.0)
    loss, _ = loss_and_counts(algorithm, output, batch)
    torch.autograd.backward(loss)
    return Side(float(loss), _gradients(policy.model), output.logprobs.detach())


def trl_side(trainer: GRPOTrainer, batch: Experience) -> Side:
    """Loss and gradients by TRL's own path, from its dataset rows on; only sampling is ours."""
    tokens = [row[keep].tolist() for row, keep in zip(batch.tokens, batch.mask, strict=True)]
    rows = [trainer.train_dataset[index] for index in batch.group.tolist()]
    seen: list[Tensor] = []
    forward_pass = trainer._get_per_token_logps_and_entropies

    def watched(*args: Any, **kwargs: Any) -> Any:
        result = forward_pass(*args, **kwargs)
        seen.append(result[0].detach())
        return result

    trainer._generate_single_turn = lambda *_, **__: (tokens, None)
    trainer._get_per_token_logps_and_entropies = watched
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    assert batch.advantages is not None
    inputs = trainer._generate_and_score_completions(rows)
    inputs |= {"advantages": batch.advantages[:, 0], "old_per_token_logps": batch.old_logprobs}
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    return Side(float(loss), _gradients(trainer.model), seen[-1])


def _gradients(model: torch.nn.Module) -> list[Tensor]:
    named = sorted(model.named_parameters(), key=lambda pair: pair[0])
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for _, p in named]
