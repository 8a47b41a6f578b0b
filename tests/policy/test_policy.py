"""The policy's shared-prefix pass against the plain transformers forward pass, one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.tiny import PROMPT, fresh_policy, item, plain_logits, policy, ragged_items, responses
from vexp.errors import ConfigError
from vexp.policy import policy as module
from vexp.policy.policy import Reading

# rollouts of four ragged prompts: in equal groups, in unequal ones, and in no order
GROUPS = [[0, 0, 1, 1, 2, 2, 3, 3], [0, 0, 0, 1, 2, 3, 3, 3], [3, 0, 2, 1, 0, 3], [1]]


def plain_logprobs(owner, batch, tokens, mask, index, temperature):
    """Log-probs by the definition, from transformers' own logits."""
    rows = []
    for row, logits in enumerate(plain_logits(owner, batch, tokens, mask, index)):
        scaled = logits / temperature
        scaled = scaled.masked_fill(owner.banned, -torch.inf)
        chosen = tokens[row, : len(logits)]
        rows.append(scaled.log_softmax(-1)[torch.arange(len(chosen)), chosen])
    return rows


@pytest.mark.parametrize("index", GROUPS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logprobs_and_gradients_equal_the_plain_forward_pass(index, attention):
    ours, theirs = fresh_policy(attention), fresh_policy("eager")
    batch = ours.encode(ragged_items(), PROMPT)
    tokens, mask = responses(len(index), 6)
    weight = torch.randn(mask.shape, generator=torch.Generator().manual_seed(1)) * mask
    output = ours(batch, tokens, mask, torch.tensor(index), 0.7)
    plain = plain_logprobs(theirs, batch, tokens, mask, index, 0.7)
    for row, expected in enumerate(plain):
        torch.testing.assert_close(
            output.logprobs[row, : len(expected)], expected, atol=1e-5, rtol=0
        )
    assert (output.logprobs[~mask] == 0).all()
    (output.logprobs * weight).sum().backward()
    sum((weight[row, : len(logs)] * logs).sum() for row, logs in enumerate(plain)).backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if other.grad is None:
            assert mine.grad is None or not mine.grad.any(), name
            continue
        scale = other.grad.abs().max().clamp(min=1e-3)
        assert ((mine.grad - other.grad).abs().max() / scale) < 1e-4, name


@pytest.mark.parametrize("index", GROUPS)
def test_a_loose_pass_without_images_equals_the_plain_forward_pass(index):
    items = [replace(one, image=None) for one in ragged_items()]
    batch = policy().encode(items, PROMPT)
    assert not batch.attention_mask.all()
    tokens, mask = responses(len(index), 6)
    reading = Reading(hidden=True, loose=True)
    with torch.no_grad():
        found = policy()(batch, tokens, mask, torch.tensor(index), 0.7, reading)
        exact = policy()(batch, tokens, mask, torch.tensor(index), 0.7, Reading(hidden=True))
    plain = plain_logprobs(policy("eager"), batch, tokens, mask, index, 0.7)
    for row, expected in enumerate(plain):
        torch.testing.assert_close(
            found.logprobs[row, : len(expected)], expected, atol=1e-5, rtol=0
        )
    assert (found.logprobs[~mask] == 0).all()
    torch.testing.assert_close(found.hidden, exact.hidden, atol=1e-5, rtol=1e-5)


def test_entropy_is_that_of_the_plain_forward_pass():
    index = [0, 0, 1, 2, 3, 3]
    batch = policy().encode(ragged_items(), PROMPT)
    tokens, mask = responses(6, 5)
    output = policy()(batch, tokens, mask, torch.tensor(index), 0.7, reading=Reading(entropy=True))
    for row, logits in enumerate(plain_logits(policy("eager"), batch, tokens, mask, index)):
        p = (logits / 0.7).masked_fill(policy().banned, -torch.inf).softmax(-1)
        expected = -torch.special.xlogy(p, p).sum(-1)
        torch.testing.assert_close(output.entropy[row, : len(p)], expected, atol=1e-5, rtol=1e-5)
    assert (output.entropy[~mask] == 0).all()
    assert policy()(batch, tokens, mask, torch.tensor(index), 0.7).entropy is None


def test_a_rollouts_numbers_do_not_depend_on_its_batch():
    batch = policy().encode(ragged_items(), PROMPT)
    tokens, mask = responses(8, 9)
    index = torch.tensor(GROUPS[0])
    together = policy()(batch, tokens, mask, index, 1.0).logprobs
    for row in range(8):
        length = int(mask[row].sum())
        alone = policy()(
            batch.select([index[row]]),
            tokens[row : row + 1, :length],
            mask[row : row + 1, :length],
            torch.tensor([0]),
            1.0,
        )
        difference = (alone.logprobs[0] - together[row, :length]).abs().max()
        assert difference < 5e-6


def test_padding_never_changes_a_result():
    batch = policy().encode(ragged_items(), PROMPT)
    tokens, mask = responses(4, 5)
    index = torch.arange(4)
    expected = policy()(batch, tokens, mask, index).logprobs
    scrambled = tokens.clone()
    scrambled[~mask] = 17
    prompts = batch.select(range(4))
    prompts.input_ids[~prompts.attention_mask] = 5
    wider = torch.cat([scrambled, torch.full((4, 3), 9)], dim=1)
    wider_mask = torch.cat([mask, torch.zeros(4, 3, dtype=torch.bool)], dim=1)
    found = policy()(prompts, wider, wider_mask, index).logprobs
    torch.testing.assert_close(found[:, :5], expected, atol=5e-6, rtol=0)
    assert (found[:, 5:] == 0).all()


def test_responses_of_one_token_work():
    batch = policy().encode([item(0), item(1)], PROMPT)
    tokens = torch.full((4, 1), policy().eos_id)
    output = policy()(
        batch, tokens, tokens == tokens, torch.tensor([0, 0, 1, 1]), reading=Reading(entropy=True)
    )
    assert output.logprobs.shape == (4, 1)
    assert output.logprobs.isfinite().all()
    assert (output.logprobs < 0).all()
    assert torch.equal(output.logprobs[0], output.logprobs[1])


def test_logits_in_slices_give_the_same_numbers_and_gradients(monkeypatch):
    batch = policy().encode([item(0), item(1)], PROMPT)
    tokens, mask = responses(6, 7)
    index = torch.tensor([0, 0, 0, 1, 1, 1])
    results = []
    for budget in (2**27, 5 * len(policy().banned)):
        monkeypatch.setattr(module, "LOGITS_AT_ONCE", budget)
        owner = fresh_policy()
        output = owner(batch, tokens, mask, index, 0.7, reading=Reading(entropy=True))
        (output.logprobs.sum() + output.entropy.sum()).backward()
        results.append((output, owner.model.lm_head.weight.grad, owner.model.model.visual))
    (whole, gradient, tower), (sliced, sliced_gradient, sliced_tower) = results
    torch.testing.assert_close(sliced.logprobs, whole.logprobs, atol=1e-6, rtol=0)
    torch.testing.assert_close(sliced.entropy, whole.entropy, atol=1e-6, rtol=0)
    torch.testing.assert_close(sliced_gradient, gradient, atol=1e-5, rtol=1e-5)
    for mine, other in zip(sliced_tower.parameters(), tower.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-4)


def test_each_image_goes_through_the_vision_tower_once(monkeypatch):
    calls = []
    tower = policy().model.model.visual
    monkeypatch.setattr(tower, "forward", _counting(tower.forward, calls))
    batch = policy().encode([item(0), item(1)], PROMPT)
    tokens, mask = responses(8, 4)
    policy()(batch, tokens, mask, torch.arange(2).repeat_interleave(4))
    assert calls == [32]  # patches of two images of 56 x 56 pixels, for eight responses


def _counting(forward, calls):
    def counted(pixels, *arguments, **options):
        calls.append(len(pixels))
        return forward(pixels, *arguments, **options)

    return counted


def test_bfloat16_is_close_and_keeps_float32_parameters():
    half = fresh_policy(precision="bf16")
    batch = half.encode(ragged_items(), PROMPT)
    tokens, mask = responses(4, 5)
    output = half(batch, tokens, mask, torch.arange(4))
    expected = policy()(batch, tokens, mask, torch.arange(4))
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    assert output.logprobs.dtype == torch.float32
    assert 0 < (output.logprobs - expected.logprobs).abs().max() < 0.3
    output.logprobs.sum().backward()
    assert half.model.lm_head.weight.grad.isfinite().all()


def test_responses_are_encoded_with_an_end_and_decoded_without():
    texts = ["<think>red is 3</think>\\boxed{12}", "", "ünï <|image_pad|> x"]
    tokens, mask = policy().encode_responses(texts, 64)
    assert policy().decode(tokens, mask) == texts
    assert mask.sum(1).tolist()[1] == 1
    assert (tokens[torch.arange(3), mask.sum(1) - 1] == policy().eos_id).all()
    assert not policy().banned[tokens[mask]].any()
    assert (tokens[~mask] == policy().pad_id).all()


def test_a_long_response_is_cut_and_then_has_no_end():
    tokens, mask = policy().encode_responses(["red blue green", "red"], 2)
    assert tokens.shape == (2, 2)
    assert mask.all()
    assert policy().eos_id not in tokens[0]
    assert tokens[1, 1] == policy().eos_id


def test_special_and_unused_tokens_are_banned():
    owner = policy()
    banned = owner.banned
    assert len(banned) == owner.model.config.text_config.vocab_size > len(owner.tokenizer)
    assert banned[len(owner.tokenizer) :].all()
    special = set(owner.tokenizer.added_tokens_decoder) - {owner.eos_id}
    assert len(special) == 6
    assert banned[list(special)].all()
    assert int(banned.sum()) == len(banned) - len(owner.tokenizer) + 6
    assert not banned[owner.eos_id]


def test_what_a_component_emits_is_allowed_and_visible():
    owner = fresh_policy(emits={"<|vision_start|>": ()})
    token = owner.tokenizer.convert_tokens_to_ids("<|vision_start|>")
    assert not owner.banned[token]
    assert owner.decode(torch.tensor([[token, 5]]), torch.tensor([[True, True]]))[0].startswith(
        "<|v"
    )


def test_a_policy_cannot_emit_what_its_tokenizer_does_not_have():
    with pytest.raises(ConfigError, match="'<Focus>' is not a token"):
        module.banned_tokens(policy().tokenizer, len(policy().banned), ("<Focus>",))


def test_flash_attention_that_cannot_run_says_why():
    with pytest.raises(ConfigError) as caught:
        fresh_policy("flash_attention_2")
    assert "the device is cpu" in str(caught.value)
    assert "compute.attention=auto" in str(caught.value)
