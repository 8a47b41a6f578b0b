"""What every registered credit method promises."""

from __future__ import annotations

import math

import pytest
import torch

from tests.train.fakes import experience
from vexp.experience.batch import Counterfactual
from vexp.registry import NEEDS, REGISTRY

SIZE, WIDTH = 4, 6
ROWS = tuple(range(2 * SIZE))
BLIND = 6  # the one response without an image


@pytest.fixture(params=REGISTRY.names("credit"))
def credit(request):
    return REGISTRY.get("credit", request.param)()


def signals(credit, rows=ROWS, *, extra=0, padding=0.0):
    """Outcome advantages and an experience with everything a credit method may ask for.

    Two groups of four responses, or just `rows` of them, with `extra` more columns of padding.
    """
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([1, WIDTH, 2, 3, 4, 5, WIDTH, 1])[:, None]
    mask = torch.arange(WIDTH) < lengths
    rows = list(rows)

    def per_token(change):
        noise = change(torch.randn(2 * SIZE, WIDTH, generator=generator))
        kept = noise.masked_fill(~mask, padding)[rows]
        return torch.nn.functional.pad(kept, (0, extra), value=padding)

    def logprobs():
        return per_token(lambda noise: -noise.abs())

    present, group = torch.unique(torch.tensor(rows) // SIZE, return_inverse=True)
    boxes = (((0.0, 0.0, 28.0, 28.0),), ())
    made = experience(
        group=group,
        mask=torch.nn.functional.pad(mask[rows], (0, extra)),
        boxes=tuple(boxes[prompt] for prompt in present.tolist()),
        has_image=torch.tensor([row != BLIND for row in rows]),
        old_logprobs=logprobs(),
        reference_logprobs=logprobs(),
        sampling_logprobs=logprobs(),
        entropy=per_token(torch.abs),
        similarity=per_token(torch.tanh),
        counterfactual={
            distortion: Counterfactual(logprobs(), per_token(torch.abs))
            for distortion in [getattr(credit, "distortion", None)]
            if distortion is not None
        },
    )
    outcome = torch.randn(2 * SIZE, generator=generator, dtype=torch.float64)
    return outcome[rows], made


def test_shape_finiteness_and_nothing_outside_the_mask(credit):
    outcome, made = signals(credit)
    advantages = credit.advantages(outcome, made)
    assert advantages.shape == made.mask.shape
    assert advantages.is_floating_point()
    assert advantages.isfinite().all()
    assert (advantages[~made.mask] == 0).all()
    assert not advantages.requires_grad


def test_no_outcome_advantage_gives_no_token_advantage(credit):
    outcome, made = signals(credit)
    outcome[:SIZE] = 0.0
    advantages = credit.advantages(outcome, made)
    assert (advantages[:SIZE] == 0).all()
    assert (advantages[SIZE:] != 0).any()


def test_the_order_of_rollouts_does_not_matter(credit):
    order = [5, 0, 7, 2, 1, 4, 3, 6]
    shuffled = credit.advantages(*signals(credit, order))
    torch.testing.assert_close(shuffled, credit.advantages(*signals(credit))[order])


@pytest.mark.parametrize("padding", [0.0, -7.0, math.nan])
def test_content_and_amount_of_padding_do_not_matter(credit, padding):
    expected = credit.advantages(*signals(credit))
    found = credit.advantages(*signals(credit, extra=3, padding=padding))
    torch.testing.assert_close(found[:, :WIDTH], expected)
    assert (found[:, WIDTH:] == 0).all()


def test_groups_do_not_mix_unless_the_method_says_so(credit):
    whole = credit.advantages(*signals(credit))
    apart = [credit.advantages(*signals(credit, rows)) for rows in (ROWS[:SIZE], ROWS[SIZE:])]
    width = whole.shape[1]
    apart = [torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in apart]
    same = torch.allclose(torch.cat(apart), whole, rtol=1e-5, atol=1e-6)
    assert same != credit.across_groups


def test_a_response_without_an_image_or_a_token(credit):
    """Its advantages are finite, and an empty response has none."""
    outcome, made = signals(credit, [0, BLIND])
    made.mask[0] = False
    advantages = credit.advantages(outcome, made)
    assert advantages.isfinite().all()
    assert (advantages[0] == 0).all()
    assert (advantages[1] != 0).all()


def test_what_it_asks_for_is_supplied(credit):
    assert set(credit.required()) <= set(NEEDS)


def test_metrics_are_finite_numbers_under_its_own_prefix(credit):
    for name, value in credit.metrics(signals(credit)[1]).items():
        assert name.startswith("credit/")
        assert isinstance(value, float)
        assert math.isfinite(value)
