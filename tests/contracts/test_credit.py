"""What every registered credit method promises."""

from __future__ import annotations

import pytest
import torch

from tests.train.fakes import experience
from vexp.registry import REGISTRY

SIZE, WIDTH = 4, 6


@pytest.fixture(params=REGISTRY.names("credit"))
def credit(request):
    return REGISTRY.get("credit", request.param)()


def signals(width=WIDTH, seed=0):
    """An experience with everything a credit method may ask for, and outcome advantages."""
    generator = torch.Generator().manual_seed(seed)

    def noise():
        return torch.randn(2 * SIZE, WIDTH, generator=generator)

    lengths = torch.tensor([1, WIDTH, 2, 3, 4, 5, WIDTH, 1])[:, None]
    mask = torch.arange(WIDTH) < lengths
    per_token = {
        "mask": mask,
        "old_logprobs": -noise().abs() * mask,
        "reference_logprobs": -noise().abs() * mask,
        "sampling_logprobs": -noise().abs() * mask,
        "entropy": noise().abs() * mask,
    }
    extra = width - WIDTH
    padded = {k: torch.nn.functional.pad(v, (0, extra)) for k, v in per_token.items()}
    made = experience(
        group=torch.arange(2).repeat_interleave(SIZE),
        boxes=(((0.0, 0.0, 28.0, 28.0),), ()),
        **padded,
    )
    return torch.randn(2 * SIZE, generator=generator, dtype=torch.float64), made


def test_shape_finiteness_and_nothing_outside_the_mask(credit):
    outcome, made = signals()
    advantages = credit.advantages(outcome, made)
    assert advantages.shape == made.mask.shape
    assert advantages.isfinite().all()
    assert (advantages[~made.mask] == 0).all()
    assert not advantages.requires_grad


def test_no_outcome_advantage_gives_no_token_advantage(credit):
    outcome, made = signals()
    outcome[:SIZE] = 0.0
    advantages = credit.advantages(outcome, made)
    assert (advantages[:SIZE] == 0).all()
    assert (advantages[SIZE:] != 0).any()


def test_the_order_of_rollouts_does_not_matter(credit):
    outcome, made = signals()
    order = [5, 0, 7, 2, 1, 4, 3, 6]
    shuffled = credit.advantages(outcome[order], made.select(order))
    torch.testing.assert_close(shuffled, credit.advantages(outcome, made)[order])


def test_more_padding_does_not_matter(credit):
    outcome, made = signals()
    _, wide = signals(width=WIDTH + 3)
    found = credit.advantages(outcome, wide)
    torch.testing.assert_close(found[:, :WIDTH], credit.advantages(outcome, made))
    assert (found[:, WIDTH:] == 0).all()


def test_groups_do_not_mix(credit):
    """A group's credit is the same whatever else is in the batch."""
    outcome, made = signals()
    alone = list(range(SIZE, 2 * SIZE))
    whole = credit.advantages(outcome, made)[alone]
    single = credit.advantages(outcome[alone], made.select(alone))
    torch.testing.assert_close(single, whole[:, : single.shape[1]])
