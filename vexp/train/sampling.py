"""From prompts to responses: every group in the parts that the rollout method asks for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vexp.dataset.base import Item
from vexp.distortion.base import Distortion
from vexp.engine.base import Generated, Sampling
from vexp.policy.randomness import derive
from vexp.train.optimizer import diverged

if TYPE_CHECKING:
    from vexp.policy.policy import Policy
    from vexp.policy.prompts import PromptBatch
    from vexp.response.format import ResponseFormat
    from vexp.spec.run import RunSpec


def generate(
    run: RunSpec, policy: Policy, items: Sequence[Item], keys: Sequence[str], step: int
) -> tuple[PromptBatch, Generated]:
    """Sample a group of responses per item from the current policy.

    The prompts are those of the items as they are, whatever the sampler saw; `keys`, one per item,
    are what the noise is drawn for.

    Raises:
        Diverged: if the policy's distribution is no longer one.
    """
    prompts = policy.encode(items, run.prompt)
    with torch.no_grad():
        parts = [
            run.engine.generate(policy, seen, keys, sampling)
            for seen, sampling in _parts(run, policy, items, keys, step, prompts)
        ]
    generated = side_by_side(parts, len(items), policy.pad_id)
    total = float(generated.logprobs.sum())
    if not math.isfinite(total):
        raise diverged("the log-probability of a sampled token", total, f"step {step}")
    return prompts, generated


def prefetch(
    run: RunSpec, policy: Policy, items: Sequence[Item], keys: Sequence[str], step: int
) -> None:
    """Have the engine begin with what `generate` will ask it for."""
    prompts = policy.encode(items, run.prompt)
    for seen, sampling in _parts(run, policy, items, keys, step, prompts):
        run.engine.prefetch(policy, seen, keys, sampling)


def _parts(
    run: RunSpec,
    policy: Policy,
    items: Sequence[Item],
    keys: Sequence[str],
    step: int,
    prompts: PromptBatch,
) -> Iterator[tuple[PromptBatch, Sampling]]:
    """What the rollout method asks for: prompts as the sampler sees them, and how to sample."""
    first = 0
    for draw in run.rollout.draws(step, run.rl.steps):
        seen = prompts
        if draw.distortion is not None:
            distorted = noisy(items, keys, draw.distortion, seed=run.seed, step=step)
            seen = policy.encode(distorted, run.prompt)
        yield (
            seen,
            Sampling(
                group_size=draw.count,
                first=first,
                max_response_length=run.rollout.max_response_length,
                temperature=run.rollout.temperature,
                top_p=run.rollout.top_p,
                seed=run.seed,
                step=step,
                stop=ending(run),
            ),
        )
        first += draw.count


def ending(run: RunSpec) -> ResponseFormat | None:
    """The format with whose answer a response ends, if it does."""
    return run.prompt.response_format if run.rollout.stop == "answer" else None


def noisy(
    items: Sequence[Item], keys: Sequence[str], distortion: Distortion, *, seed: int, step: int
) -> list[Item]:
    """The items as the sampler sees them; each a function of its key, seed and step."""
    noise = [
        np.random.Generator(np.random.Philox(key=derive(seed, "rollout_noise", step, key)))
        for key in keys
    ]
    return [distortion.apply(item, own) for item, own in zip(items, noise, strict=True)]


def side_by_side(parts: Sequence[Generated], prompts: int, pad_id: int) -> Generated:
    """One batch of several over the same prompts; a group is its rows of each part in turn."""
    if len(parts) == 1:
        return parts[0]

    def joined(tensors: list[Tensor]) -> Tensor:
        grouped = [tensor.view(prompts, -1, *tensor.shape[1:]) for tensor in tensors]
        return torch.cat(grouped, dim=1).flatten(0, 1)

    width = max(part.tokens.shape[1] for part in parts)
    return Generated(
        tokens=joined([widened(part.tokens, width, pad_id) for part in parts]),
        mask=joined([widened(part.mask, width, False) for part in parts]),
        logprobs=joined([widened(part.logprobs, width, 0.0) for part in parts]),
        finished=joined([part.finished for part in parts]),
    )


def widened(values: Tensor, width: int, padding: float) -> Tensor:  # [rollout, width]
    """[rollout, token] values, padded on the right."""
    return torch.nn.functional.pad(values, (0, width - values.shape[1]), value=padding)
