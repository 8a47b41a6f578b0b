"""Truncated importance sampling: token weights, where they enter, and where they are refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.train.fakes import SMALLEST
from vexp.algorithm.grpo import GRPO
from vexp.correction.none import Uncorrected
from vexp.correction.truncated import Truncated
from vexp.errors import ConfigError
from vexp.experience.batch import Experience
from vexp.policy.policy import PolicyOutput
from vexp.spec.identity import training_id
from vexp.spec.resolve import resolve
from vexp.train.objective import loss_and_counts

NUMBERS = st.lists(st.floats(-30, 0), min_size=6, max_size=6)


@given(NUMBERS, NUMBERS, st.floats(0.1, 10))
def test_weights_are_ratios_up_to_the_cap(trainer, sampler, cap):
    ours, theirs = (torch.tensor(values).view(2, 3) for values in (trainer, sampler))
    mask = torch.tensor([[True, True, False], [True, False, False]])
    found = Truncated(cap=cap).weights(ours, theirs, mask)
    for row in range(2):
        for column in range(3):
            change = float(ours[row, column]) - float(theirs[row, column])
            expected = min(math.exp(change), cap) if mask[row, column] else min(1.0, cap)
            assert float(found[row, column]) == pytest.approx(expected, rel=1e-5)


def made(old, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def drawn():
        return -torch.rand(3, 4, generator=generator, dtype=torch.float64)

    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)
    batch = Experience(
        prompts=None,
        group=torch.zeros(3, dtype=torch.int64),
        tokens=torch.zeros(3, 4, dtype=torch.int64),
        mask=mask,
        rewards=torch.zeros(3, dtype=torch.float64),
        sampling_logprobs=drawn(),
        old_logprobs=drawn() if old else None,
        advantages=torch.randn(3, 4, generator=generator, dtype=torch.float64),
        weights=torch.rand(3, 4, generator=generator, dtype=torch.float64),
    )
    return batch, drawn()


@pytest.mark.parametrize("old", [False, True])
def test_the_loss_of_each_token_is_weighed(old):
    """Against loops; the weight is of the policy that sampled, so it has no gradient."""
    batch, values = made(old)
    algorithm, cap = GRPO(kl_coef=0.0), 1.2
    logprobs = values.clone().requires_grad_()
    loss, _ = loss_and_counts(algorithm, PolicyOutput(logprobs), batch, {}, Truncated(cap=cap))
    loss.backward()
    total, slope = 0.0, torch.zeros(3, 4, dtype=torch.float64)
    for row, column in batch.mask.nonzero().tolist():
        now = float(values[row, column])
        before = float(batch.old_logprobs[row, column]) if old else now
        trust = min(math.exp(before - float(batch.sampling_logprobs[row, column])), cap)
        ratio, advantage = math.exp(now - before), float(batch.advantages[row, column])
        clipped = min(max(ratio, 0.8), 1.2)
        scale = float(batch.weights[row, column]) * trust
        total += scale * -min(ratio * advantage, clipped * advantage)
        if ratio * advantage <= clipped * advantage:
            slope[row, column] = scale * -ratio * advantage
    assert float(loss.detach()) == pytest.approx(total, rel=1e-9)
    assert torch.allclose(logprobs.grad, slope, rtol=1e-9)
    plain, _ = loss_and_counts(algorithm, PolicyOutput(values), batch, {}, Uncorrected())
    none, _ = loss_and_counts(algorithm, PolicyOutput(values), batch)
    assert float(plain) == float(none) != pytest.approx(total)


def test_a_correction_is_off_unless_asked_for_and_then_part_of_the_id():
    base, same, other = (
        training_id(resolve([*SMALLEST, *more]))
        for more in ([], ["rl.correction=none"], ["rl.correction=truncated"])
    )
    assert base == same
    assert other.hash != base.hash
    assert "truncated" in other.slug


def test_it_does_not_undo_noisy_rollouts():
    with pytest.raises(ConfigError, match="samples from another image"):
        resolve([*SMALLEST, "rollout=noisy", "rl.correction=truncated"])
