"""What every registered auxiliary loss promises."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from tests.auxiliary.batches import (
    BLIND,
    SIZE,
    WIDTH,
    batch,
    logits_of,
    logprobs_of,
    loss_of,
    output_of,
    uniform,
    with_counterfactual,
)
from vexp.registry import NEEDS, REGISTRY

ROWS = 15
EVERY_ROW = list(range(ROWS))
BARE = 4  # the prompt whose image has no box
ORDER = [5, 0, 14, 2, 9, 1, 12, 4, 3, 6, 13, 8, 7, 10, 11]


def variants():
    """Each loss as it comes, and with each of its switches turned."""
    for name in REGISTRY.names("auxiliary"):
        kind = REGISTRY.get("auxiliary", name)
        yield pytest.param(kind(), id=name)
        for field in dataclasses.fields(kind):
            if isinstance(field.default, bool):
                turned = kind(**{field.name: not field.default})
                yield pytest.param(turned, id=f"{name}-{field.name}")


@pytest.fixture(params=variants())
def term(request):
    return request.param


def supplied(term, seed=0, **fields):
    """A batch with what the term needs, uniform numbers, and what a policy would say."""
    made = batch(seed, **fields)
    said = {"logprobs": logprobs_of(made, seed)}
    needs = {*term.required(), *term.live}
    if "attention" in needs:
        said |= {"layer": term.layer.index(made.layers), "logits": logits_of(made, seed)}
    if "counterfactual_logprobs" in needs:
        distorted = logprobs_of(made, seed + 1)
        made = with_counterfactual(made, term.distortion, distorted)
        said |= {"live": {term.distortion: distorted}}
    return made, uniform(made, seed), said


def picked(made, draw, said, rows):
    """Some rows, in any order, of everything."""
    chosen = {k: v[rows] if torch.is_tensor(v) else v for k, v in said.items()}
    if "live" in said:
        chosen["live"] = {key: value[rows] for key, value in said["live"].items()}
    part = made.select(rows)
    short = part.mask.shape[1]
    return part, draw[rows, :short], chosen


def padded(value, content, extra=3):
    """More columns of tokens, and other content in the padding."""
    wider = torch.nn.functional.pad(value, (0, extra))
    lengths = batch().mask.sum(1, keepdim=True)
    return wider.masked_fill(torch.arange(wider.shape[1]) >= lengths, content)


def leaves(said):
    """Everything a gradient flows into."""
    given = [v for k, v in said.items() if k in ("logits", "logprobs")]
    given += list(said.get("live", {}).values())
    return [value.requires_grad_() for value in given]


def test_weights_are_finite_and_nothing_outside_the_mask(term):
    made, draw, _ = supplied(term)
    weights = term.weights(made, draw)
    assert weights.shape == made.mask.shape
    assert weights.dtype == torch.float32
    assert weights.isfinite().all()
    assert (weights >= 0).all()
    assert (weights[~made.mask] == 0).all()
    assert (weights > 0).any()
    assert not weights.requires_grad


def test_the_loss_of_each_token_is_finite(term):
    made, _, said = supplied(term)
    found = term.token_loss(output_of(made, EVERY_ROW, **said), made)
    assert found.shape == made.mask.shape
    assert found.isfinite().all()


def test_it_has_a_finite_gradient(term):
    made, draw, said = supplied(term)
    given = leaves(said)
    loss_of(term, made, draw, **said).backward()
    gradients = [value.grad for value in given if value.grad is not None]
    assert any(gradient.any() for gradient in gradients)
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("content", [0.0, 0.9, -7.0])
def test_content_and_amount_of_padding_do_not_matter(term, content):
    made, draw, said = supplied(term)
    expected = loss_of(term, made, draw, **said)
    wider = dataclasses.replace(
        made,
        mask=padded(made.mask, False),
        tokens=padded(made.tokens, 3),
        sampling_logprobs=padded(made.sampling_logprobs, content),
        counterfactual={
            key: dataclasses.replace(known, logprobs=padded(known.logprobs, content))
            for key, known in made.counterfactual.items()
        },
    )
    changed = dict(said)
    changed["logprobs"] = padded(said["logprobs"], content)
    if "logits" in said:
        logits = said["logits"].transpose(2, 3)
        logits = torch.nn.functional.pad(logits, (0, 3), value=content).transpose(2, 3)
        outside = ~wider.mask[:, None, :, None]
        changed["logits"] = logits.masked_fill(outside, content)
    if "live" in said:
        changed["live"] = {key: padded(value, content) for key, value in said["live"].items()}
    weights = term.weights(wider, padded(draw, 0.0))
    assert (weights[:, WIDTH:] == 0).all()
    torch.testing.assert_close(weights[:, :WIDTH], term.weights(made, draw))
    torch.testing.assert_close(loss_of(term, wider, padded(draw, 0.0), **changed), expected)


@pytest.mark.parametrize(
    "portions",
    [[[row] for row in EVERY_ROW], [[0, 1, 2, 3], [4, 5], list(range(6, ROWS))], [ORDER]],
)
def test_the_split_into_micro_batches_does_not_matter(term, portions):
    made, draw, said = supplied(term)
    expected = loss_of(term, made, draw, **said)
    assert expected != 0
    found = loss_of(term, made, draw, portions=portions, **said)
    torch.testing.assert_close(found, expected)
    found = loss_of(term, made, draw, portions=portions, fewest=True, **said)
    torch.testing.assert_close(found, expected)


def test_the_order_of_rollouts_does_not_matter(term):
    made, draw, said = supplied(term)
    shuffled = picked(made, draw, said, ORDER)
    weights = term.weights(shuffled[0], shuffled[1])
    torch.testing.assert_close(weights, term.weights(made, draw)[ORDER])
    found = loss_of(term, shuffled[0], shuffled[1], **shuffled[2])
    torch.testing.assert_close(found, loss_of(term, made, draw, **said))


def test_rewards_and_advantages_do_not_enter(term):
    """A group whose rewards are all equal is treated like any other."""
    made, draw, said = supplied(term)
    expected = loss_of(term, made, draw, **said)
    generator = torch.Generator().manual_seed(9)
    rewards = torch.rand(ROWS, generator=generator, dtype=torch.float64)
    advantages = torch.randn(made.mask.shape, generator=generator)
    noisy = dataclasses.replace(made, rewards=rewards, advantages=advantages)
    assert loss_of(term, noisy, draw, **said) == expected
    equal = dataclasses.replace(noisy, rewards=rewards.clone().fill_(1.0))
    equal.rewards[:SIZE] = 0.0
    assert loss_of(term, equal, draw, **said) == expected


def test_who_has_no_image_never_spoils_the_others(term):
    """Their values are finite, and so are all gradients, alone and together."""
    blind = [row for row in EVERY_ROW if row // SIZE in (BLIND, BARE)]
    for rows in (blind, blind[:1], EVERY_ROW):
        made, draw, said = picked(*supplied(term), rows)
        given = leaves(said)
        loss = loss_of(term, made, draw, **said)
        loss.backward()
        assert loss.isfinite()
        for value in given:
            assert value.grad is None or value.grad.isfinite().all()


def test_empty_responses_have_no_loss(term):
    made, draw, said = supplied(term)
    made = dataclasses.replace(made, mask=torch.zeros_like(made.mask))
    loss = loss_of(term, made, draw, **said)
    assert float(loss) == 0
    assert (term.weights(made, draw) == 0).all()


def test_what_it_asks_for_is_supplied(term):
    assert set(term.required()) <= set(NEEDS)
    assert set(term.live) <= {"attention", "counterfactual_logprobs"}
    assert not set(term.live) & set(term.required())
    assert math.isfinite(term.coef)
    if "attention" in term.live:
        assert 0 <= term.layer.index(6) < 6
    if "counterfactual_logprobs" in (*term.live, *term.required()):
        assert hash(term.distortion) == hash(dataclasses.replace(term.distortion))
