"""Generation: the right distribution, whatever else is in the batch."""

from __future__ import annotations

import pytest
import torch

from tests.tiny import PROMPT, fresh_policy, item, plain_logits, policy, ragged_items
from vexp.engine.base import Sampling
from vexp.engine.hf import HF

IDS = ["a", "b", "c", "d"]


def generate(owner, items, ids=None, **settings):
    batch = owner.encode(items, PROMPT)
    options = {"group_size": 3, "max_response_length": 8} | settings
    return batch, HF().generate(owner, batch, ids or IDS[: len(items)], Sampling(**options))


def loose(owner, eos: float):
    """Make the end of the sequence likelier, so that responses end at different places."""
    with torch.no_grad():
        owner.model.lm_head.weight.mul_(0.5)
        owner.model.lm_head.weight[owner.eos_id] += eos * owner.model.lm_head.weight[7]
    return owner


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_sampled_logprobs_equal_the_trainers(attention, temperature):
    owner = loose(fresh_policy(attention), 3.0)
    batch, found = generate(
        owner, ragged_items(), temperature=temperature, group_size=4, max_response_length=12
    )
    index = torch.arange(4).repeat_interleave(4)
    trained = owner(batch, found.tokens, found.mask, index, temperature).logprobs
    assert (trained - found.logprobs).abs().max() < 1e-5
    assert len(set(found.mask.sum(1).tolist())) > 1  # rows did end, and left the batch


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_greedy_equals_an_argmax_loop_of_plain_transformers(attention):
    items = ragged_items()
    batch, found = generate(policy(attention), items, greedy=True, group_size=1)
    for row in range(4):
        tokens = torch.zeros(1, 0, dtype=torch.long)
        for _ in range(int(found.mask[row].sum())):
            guess = torch.cat([tokens, torch.zeros(1, 1, dtype=torch.long)], dim=1)
            logits = plain_logits(
                policy("eager"), batch, guess, torch.ones_like(guess, dtype=torch.bool), [row]
            )[0][-1]
            best = logits.masked_fill(policy().banned, -torch.inf).argmax()
            tokens = torch.cat([tokens, best.view(1, 1)], dim=1)
        assert found.tokens[row, : tokens.shape[1]].tolist() == tokens[0].tolist()


def test_a_row_gets_the_same_tokens_whatever_its_neighbours():
    owner = loose(fresh_policy(), 3.0)
    items = ragged_items()
    _, together = generate(owner, items, group_size=3)
    for prompt in range(4):
        _, alone = generate(owner, [items[prompt]], [IDS[prompt]], group_size=3)
        rows = slice(3 * prompt, 3 * prompt + 3)
        width = alone.tokens.shape[1]
        assert torch.equal(together.tokens[rows, :width], alone.tokens)
        assert torch.equal(together.mask[rows, :width], alone.mask)
        assert not together.mask[rows, width:].any()
        assert torch.equal(together.finished[rows], alone.finished)
        assert (together.logprobs[rows, :width] - alone.logprobs).abs().max() < 5e-6
    _, backwards = generate(owner, items[::-1], IDS[::-1], group_size=3)
    order = torch.arange(12).view(4, 3).flip(0).flatten()
    assert torch.equal(backwards.tokens[order], together.tokens)


def test_a_larger_group_begins_with_the_smaller_one():
    _, small = generate(policy(), [item(0)], group_size=2)
    _, large = generate(policy(), [item(0)], group_size=5)
    assert torch.equal(large.tokens[:2], small.tokens)


def test_draws_differ_by_seed_step_purpose_and_place():
    def drawn(**settings):
        _, found = generate(policy(), [item(0)], group_size=2, **settings)
        return found.tokens

    base = drawn()
    assert torch.equal(base, drawn())
    assert not torch.equal(base[0], base[1])
    for change in ({"seed": 1}, {"step": 1}, {"purpose": "heldout"}):
        assert not torch.equal(base, drawn(**change))


def test_padding_and_ends_are_as_promised():
    owner = loose(fresh_policy(), 3.0)
    _, found = generate(owner, ragged_items(), group_size=6, max_response_length=10)
    lengths = found.mask.sum(1)
    assert found.tokens.shape[1] == lengths.max()
    assert lengths.min() >= 1
    for tokens, mask, logprobs, finished in zip(
        found.tokens, found.mask, found.logprobs, found.finished, strict=True
    ):
        length = int(mask.sum())
        assert mask[:length].all()
        assert (tokens[length:] == owner.pad_id).all()
        assert (logprobs[length:] == 0).all()
        assert (logprobs[:length] < 0).all()
        assert bool(finished) == (int(tokens[length - 1]) == owner.eos_id)
        assert owner.eos_id not in tokens[: length - 1]
        assert finished or length == 10
    assert found.finished.any()


def test_a_response_may_be_empty():
    owner = fresh_policy()
    with torch.no_grad():
        owner.model.lm_head.weight.zero_()
    every = torch.ones_like(owner.banned)
    every[owner.eos_id] = False
    owner.banned.copy_(every)
    _, found = generate(owner, [item(0), item(1)])
    assert found.tokens.tolist() == [[owner.eos_id]] * 6
    assert found.finished.all()
    assert found.logprobs.abs().max() == 0
    assert owner.decode(found.tokens, found.mask) == [""] * 6


def test_ignoring_the_end_fills_every_response():
    owner = loose(fresh_policy(), 8.0)
    batch, found = generate(owner, [item(0), item(1)], ignore_eos=True, max_response_length=9)
    assert found.mask.all()
    assert found.mask.shape == (6, 9)
    assert not found.finished.any()
    index = torch.arange(2).repeat_interleave(3)
    trained = owner(batch, found.tokens, found.mask, index).logprobs
    assert (trained - found.logprobs).abs().max() < 1e-5


def test_banned_tokens_are_never_sampled_even_when_likely():
    owner = fresh_policy()
    image = owner.model.config.image_token_id
    with torch.no_grad():
        for hidden in (image, owner.pad_id, len(owner.banned) - 1):
            owner.model.lm_head.weight[hidden] *= 30
    _, found = generate(owner, [item(0), item(1)], group_size=64, max_response_length=16)
    assert not owner.banned[found.tokens[found.mask]].any()


def test_generation_leaves_no_graph_and_no_inference_tensors():
    _, found = generate(policy(), [item(0)])
    assert not found.logprobs.requires_grad
    scale = torch.ones((), requires_grad=True)
    (found.logprobs * scale * found.mask).sum().backward()


def test_bfloat16_generates():
    _, found = generate(fresh_policy(precision="bf16"), ragged_items())
    assert found.logprobs.isfinite().all()
