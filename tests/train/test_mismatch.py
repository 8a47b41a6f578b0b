"""The difference between the engine's log-probs and the trainer's, as it is logged."""

from __future__ import annotations

import math

import pytest
import torch

from tests.train.test_learner import learner_and_experience
from vexp.experience.batch import forward
from vexp.train.step import with_advantages


@pytest.mark.parametrize("size", [1, 3, 64])
def test_it_is_taken_over_all_tokens_of_the_update(size):
    learner, experience = learner_and_experience(f"compute.micro_batch_size={size}")
    noise = torch.randn(experience.mask.shape, generator=torch.Generator().manual_seed(1))
    experience.sampling_logprobs.add_(0.3 * noise)
    with torch.no_grad():
        trainer = forward(learner.policy, experience, learner.run.rollout.temperature).logprobs
    batch = with_advantages(learner, experience, 1)
    row = learner.update(batch, step=1, updates=0).metrics
    changes = [
        float(trainer[place]) - float(experience.sampling_logprobs[place])
        for place in map(tuple, experience.mask.nonzero().tolist())
    ]
    weights = [math.exp(change) for change in changes]
    ess = sum(weights) ** 2 / sum(weight**2 for weight in weights) / len(weights)
    assert row["mismatch/mean"] == pytest.approx(sum(map(abs, changes)) / len(changes), rel=1e-4)
    assert row["mismatch/max"] == pytest.approx(max(map(abs, changes)), rel=1e-4)
    assert row["mismatch/ess"] == pytest.approx(ess, rel=1e-4)


def test_an_exact_engine_has_none_over_several_updates():
    learner, experience = learner_and_experience(
        "rl.prompts_per_update=1", "rl.epochs_per_step=2", "compute.micro_batch_size=5"
    )
    row = learner.update(with_advantages(learner, experience, 1), step=1, updates=0).metrics
    assert 0 <= row["mismatch/mean"] <= row["mismatch/max"] < 1e-5
    assert row["mismatch/ess"] == pytest.approx(1.0)
