"""Losses and gradients of every algorithm against the plain implementation in plain_losses.py."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train import plain_losses as plain
from tests.train.fakes import experience
from vexp.experience.batch import micro_batches
from vexp.policy.policy import PolicyOutput
from vexp.registry import REGISTRY
from vexp.train.objective import loss_and_counts

NAMES = ["grpo", "grpo_clip_higher", "dapo", "dr_grpo", "gspo"]
MODES = ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"]
LIMIT = 9


@st.composite
def batches(draw):
    """Groups of ragged responses with log-probs near and far from the old ones."""
    seed = draw(st.integers(0, 2**31))
    groups, size = draw(st.integers(1, 3)), draw(st.integers(2, 4))
    lengths = draw(st.lists(st.integers(0, LIMIT), min_size=groups * size, max_size=groups * size))
    scale = draw(st.sampled_from([0.0, 1e-4, 0.3, 2.0]))
    generator = torch.Generator().manual_seed(seed)

    def noise() -> torch.Tensor:
        return torch.randn(groups * size, LIMIT, generator=generator, dtype=torch.float64)

    old = -noise().abs()
    rewards = torch.randint(0, 3, (groups * size,), generator=generator).double() / 2
    return {
        "group": torch.arange(groups).repeat_interleave(size),
        "lengths": lengths,
        "old": old,
        "lp": old + scale * noise(),
        "ref": old + scale * noise(),
        "rewards": rewards,
    }


def ours(algorithm, batch, portions=None):
    """Loss and gradient as the training loop gets them, summed over `portions` of rows."""
    mask = torch.arange(LIMIT) < torch.tensor(batch["lengths"])[:, None]
    outcome = algorithm.advantages(batch["rewards"], batch["group"])
    whole = experience(
        group=batch["group"],
        mask=mask,
        rewards=batch["rewards"],
        old_logprobs=batch["old"],
        reference_logprobs=batch["ref"],
        sampling_logprobs=batch["old"],
        advantages=outcome[:, None] * mask,
        weights=algorithm.token_weights(mask, LIMIT),
    )
    lp = batch["lp"].clone().requires_grad_(True)
    total = torch.zeros((), dtype=torch.float64)
    for rows in portions or [list(range(len(mask)))]:
        part = whole.select(rows)
        loss, _ = loss_and_counts(algorithm, PolicyOutput(lp[rows, : part.mask.shape[1]]), part)
        loss.backward()
        total += loss.detach()
    return total, lp.grad


def theirs(name, algorithm, batch):
    lp = batch["lp"].clone().requires_grad_(True)
    lengths = batch["lengths"]

    def ragged(values):
        return [list(values[i, :n]) for i, n in enumerate(lengths)]

    rewards, group = batch["rewards"].tolist(), batch["group"].tolist()
    advantages = []
    for g in sorted(set(group)):
        own = [r for r, index in zip(rewards, group, strict=True) if index == g]
        if name == "dr_grpo":
            advantages += [r - sum(own) / len(own) for r in own]
        else:
            advantages += plain.group_advantages(own, 1e-6)
    loss = plain.update_loss(
        name, ragged(lp), ragged(batch["old"]), ragged(batch["ref"]), advantages, algorithm, LIMIT
    )
    loss = torch.as_tensor(loss, dtype=torch.float64)
    grad = torch.zeros_like(lp)
    if loss.requires_grad:
        grad = torch.autograd.grad(loss, lp)[0]
    return loss.detach(), grad


@pytest.mark.parametrize("name", NAMES)
@given(batch=batches())
@settings(max_examples=40, deadline=None)
def test_loss_and_gradient_equal_the_papers_formula(name, batch):
    algorithm = REGISTRY.get("algorithm", name)()
    loss, grad = ours(algorithm, batch)
    expected, expected_grad = theirs(name, algorithm, batch)
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(grad, expected_grad, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@given(batch=batches(), dual=st.sampled_from([None, 3.0]), kl=st.sampled_from([0.0, 0.1]))
@settings(max_examples=25, deadline=None)
def test_every_aggregation_mode_with_dual_clip_and_kl(mode, batch, dual, kl):
    algorithm = REGISTRY.get("algorithm", "grpo")(aggregation=mode, dual_clip=dual, kl_coef=kl)
    loss, grad = ours(algorithm, batch)
    expected, expected_grad = theirs("grpo", algorithm, batch)
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(grad, expected_grad, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@given(batch=batches(), size=st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_micro_batches_of_any_size_sum_to_the_loss_of_the_update(name, batch, size):
    algorithm = REGISTRY.get("algorithm", name)()
    group = batch["group"].tolist()
    portions = micro_batches(group, range(len(group)), size)
    loss, grad = ours(algorithm, batch, portions)
    expected, expected_grad = ours(algorithm, batch)
    torch.testing.assert_close(loss, expected, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(grad, expected_grad, atol=1e-12, rtol=1e-9)


def test_token_advantages_reach_the_tokens_they_were_given_to_under_gspo():
    """The plain sequence form would mix them; the token form must not."""
    algorithm = REGISTRY.get("algorithm", "gspo")()
    lp = torch.full((1, 3), -1.0, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(1, 3, dtype=torch.bool)
    advantages = torch.tensor([[0.0, 2.0, 0.0]], dtype=torch.float64)
    loss = algorithm.token_loss(lp, lp.detach(), advantages, mask).sum()
    loss.backward()
    assert lp.grad.tolist() == [[0.0, -2.0, 0.0]]


def test_the_log_ratio_is_clamped_so_that_nothing_overflows():
    algorithm = REGISTRY.get("algorithm", "dr_grpo")()
    lp = torch.tensor([[0.0, -900.0]], dtype=torch.float32)
    old = torch.tensor([[-900.0, 0.0]], dtype=torch.float32)
    loss = algorithm.token_loss(lp, old, torch.full((1, 2), -1.0), torch.ones(1, 2) > 0)
    assert loss.isfinite().all()
    torch.testing.assert_close(loss[0, 0], torch.tensor(20.0).exp())


def test_dual_clip_bounds_only_negative_advantages():
    algorithm = REGISTRY.get("algorithm", "grpo_clip_higher")()
    old = torch.zeros(1, 2)
    lp = torch.log(torch.tensor([[5.0, 5.0]]))
    loss = algorithm.token_loss(lp, old, torch.tensor([[-1.0, 1.0]]), torch.ones(1, 2) > 0)
    torch.testing.assert_close(loss, torch.tensor([[3.0, -1.3]]))


def test_published_settings():
    def get(name):
        return dataclasses.asdict(REGISTRY.get("algorithm", name)())

    assert (get("grpo")["clip_low"], get("grpo")["clip_high"]) == (0.2, 0.2)
    assert get("grpo")["aggregation"] == "seq-mean-token-mean"
    higher = get("grpo_clip_higher")
    assert [higher[k] for k in ("clip_low", "clip_high", "dual_clip", "kl_coef")] == [
        0.2,
        0.3,
        3.0,
        1e-2,
    ]
    assert (get("dapo")["clip_high"], get("dapo")["kl_coef"]) == (0.28, 0.0)
    assert get("dr_grpo")["aggregation"] == "seq-mean-token-sum-norm"
    assert (get("gspo")["clip_low"], get("gspo")["clip_high"]) == (3e-4, 4e-4)
