"""What every registered algorithm promises."""

from __future__ import annotations

import pytest
import torch

from vexp.registry import REGISTRY

ALGORITHMS = REGISTRY.names("algorithm")
SIZE, WIDTH = 4, 6


@pytest.fixture(params=ALGORITHMS)
def algorithm(request):
    return REGISTRY.get("algorithm", request.param)()


@pytest.fixture
def batch():
    """Three groups of ragged responses; the second group has equal rewards."""
    generator = torch.Generator().manual_seed(0)

    def noise():
        return torch.randn(3 * SIZE, WIDTH, generator=generator)

    lengths = torch.randint(1, WIDTH + 1, (3 * SIZE, 1), generator=generator)
    rewards = torch.rand(3 * SIZE, generator=generator).double()
    rewards[SIZE : 2 * SIZE] = 0.7
    old = -noise().abs()
    return {
        "rewards": rewards,
        "group": torch.arange(3).repeat_interleave(SIZE),
        "mask": torch.arange(WIDTH) < lengths,
        "old": old,
        "lp": old + 0.3 * noise(),
    }


def loss_of(algorithm, batch, rows=None):
    """Loss and gradient; with `rows`, of those rows under the whole batch's weights."""
    rows = list(range(len(batch["mask"]))) if rows is None else rows
    mask = batch["mask"]
    advantages = algorithm.advantages(batch["rewards"], batch["group"]).float()[:, None] * mask
    weights = algorithm.token_weights(mask, WIDTH)
    lp = batch["lp"].clone().requires_grad_(True)
    token = algorithm.token_loss(lp[rows], batch["old"][rows], advantages[rows], mask[rows])
    loss = (weights[rows] * token).sum()
    loss.backward()
    return loss.detach(), lp.grad, token.detach()


def test_shapes_and_finiteness(algorithm, batch):
    advantages = algorithm.advantages(batch["rewards"], batch["group"])
    assert advantages.shape == batch["rewards"].shape
    assert advantages.dtype == batch["rewards"].dtype
    loss, grad, token = loss_of(algorithm, batch)
    assert token.shape == batch["mask"].shape
    assert loss.isfinite()
    assert grad.isfinite().all()
    assert grad.abs().sum() > 0


def test_advantages_sum_to_zero_within_a_group_and_follow_the_rewards(algorithm, batch):
    advantages = algorithm.advantages(batch["rewards"], batch["group"])
    for g in range(3):
        own = batch["group"] == g
        assert advantages[own].sum().abs() < 1e-9
        if g != 1:
            assert advantages[own].argsort().equal(batch["rewards"][own].argsort())


def test_equal_rewards_give_no_advantage_and_no_gradient(algorithm, batch):
    equal = batch["group"] == 1
    advantages = algorithm.advantages(batch["rewards"], batch["group"])
    assert advantages[equal].tolist() == [0.0] * SIZE
    assert (loss_of(algorithm, batch)[1][equal] == 0).all()


def test_nothing_outside_the_mask(algorithm, batch):
    mask = batch["mask"]
    assert (algorithm.token_weights(mask, WIDTH)[~mask] == 0).all()
    _, grad, token = loss_of(algorithm, batch)
    assert (token[~mask] == 0).all()
    assert (grad[~mask] == 0).all()


def test_content_and_amount_of_padding_do_not_matter(algorithm, batch):
    expected, grad, _ = loss_of(algorithm, batch)
    noisy = {**batch, "lp": batch["lp"].masked_fill(~batch["mask"], -7.0)}
    noisy["old"] = batch["old"].masked_fill(~batch["mask"], float("nan"))
    assert loss_of(algorithm, noisy)[0] == expected
    pad = torch.nn.functional.pad
    wide = {k: pad(v, (0, 3)) if v.ndim == 2 else v for k, v in batch.items()}
    loss, wide_grad, _ = loss_of(algorithm, wide)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(wide_grad[:, :WIDTH], grad)


def test_the_order_of_rollouts_does_not_matter(algorithm, batch):
    order = torch.randperm(3 * SIZE, generator=torch.Generator().manual_seed(1))
    loss, grad, _ = loss_of(algorithm, batch)
    shuffled_loss, shuffled_grad, _ = loss_of(algorithm, {k: v[order] for k, v in batch.items()})
    torch.testing.assert_close(shuffled_loss, loss)
    torch.testing.assert_close(shuffled_grad, grad[order])


@pytest.mark.parametrize("size", [1, 3, 5])
def test_splitting_the_batch_does_not_matter(algorithm, batch, size):
    loss, grad, _ = loss_of(algorithm, batch)
    rows = torch.randperm(3 * SIZE, generator=torch.Generator().manual_seed(2)).tolist()
    parts = [loss_of(algorithm, batch, rows[i : i + size]) for i in range(0, len(rows), size)]
    torch.testing.assert_close(torch.stack([part[0] for part in parts]).sum(), loss)
    torch.testing.assert_close(torch.stack([part[1] for part in parts]).sum(0), grad)


def test_at_ratio_one_the_gradient_is_the_plain_policy_gradient(algorithm, batch):
    same = {**batch, "old": batch["lp"]}
    _, grad, _ = loss_of(algorithm, same)
    advantages = algorithm.advantages(batch["rewards"], batch["group"]).float()[:, None]
    weights = algorithm.token_weights(batch["mask"], WIDTH)
    torch.testing.assert_close(grad, -advantages * weights * batch["mask"])


def test_one_token_and_empty_responses(algorithm, batch):
    mask = torch.zeros(3 * SIZE, WIDTH, dtype=torch.bool)
    mask[: 2 * SIZE, 0] = True
    loss, grad, token = loss_of(algorithm, {**batch, "mask": mask})
    assert loss.isfinite()
    assert grad.isfinite().all()
    assert token.isfinite().all()
