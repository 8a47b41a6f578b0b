"""Every family's shared-prefix passes against transformers' own processor and plain model."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForImageTextToText

from tests.backbone.plain import (
    CROSSED,
    QWEN,
    SIZES,
    TILED,
    TWINS,
    plain,
    plain_output,
    policy,
    processed,
    row_by_row,
    twin,
)
from tests.tiny import PROMPT, item, ragged_items
from vexp.engine.base import Sampling
from vexp.engine.hf import HF
from vexp.policy.policy import Reading
from vexp.probe.attention import Probe
from vexp.probe.layout import count
from vexp.registry import REGISTRY

LAYERS = (0, 2)  # that are probed: one before the last of Qwen3-VL's images came in, and the last
VISION = {"visual", "vision_tower", "vision_model"}  # what a vision tower is called
families = pytest.mark.parametrize("name", TWINS)
seeing = pytest.mark.parametrize("name", [*QWEN, *TILED])  # with image tokens among the text
kernels = pytest.mark.parametrize("attention", ["sdpa", "eager"])


def responses(name, rows, length):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 400, (rows, length), generator=generator)
    lengths = length - torch.arange(rows) % length
    mask = torch.arange(length) < lengths.unsqueeze(1)
    return tokens.masked_fill(~mask, policy(name).pad_id), mask


@pytest.mark.parametrize("name", [*TILED, *CROSSED])
def test_prompts_with_tiles_are_those_of_transformers_own_processor(name):
    items = ragged_items()
    batch = policy(name).encode(items, PROMPT)
    for row, thing in enumerate(items):
        alone, theirs = batch.select([row]), processed(name, [thing])
        assert torch.equal(alone.input_ids, theirs["input_ids"])
        assert alone.attention_mask.all()
        assert torch.equal(alone.position_ids[0, 0], torch.arange(alone.input_ids.shape[1]))
        assert (alone.next_position == alone.input_ids.shape[1]).all()
        if thing.image is None:
            assert alone.pixel_values is None
            continue
        pixels = theirs["pixel_values"]
        assert torch.equal(alone.pixel_values.flatten(0, -4), pixels.flatten(0, -4))
        image = alone.input_ids == plain(name).config.image_token_id
        assert int(image.sum()) == (1 if name in CROSSED else count(alone.layouts[0]))


@pytest.mark.parametrize("name", QWEN)
def test_prompts_are_those_of_transformers_own_processor(name):
    items = ragged_items()
    batch, theirs = policy(name).encode(items, PROMPT), processed(name, items)
    assert torch.equal(batch.input_ids, theirs["input_ids"])
    assert torch.equal(batch.attention_mask.long(), theirs["attention_mask"])
    assert torch.equal(batch.pixel_values, theirs["pixel_values"])
    assert torch.equal(batch.image_grid_thw, theirs["image_grid_thw"])
    types = (batch.input_ids == plain(name).config.image_token_id).int()
    expected, deltas = plain(name).model.get_rope_index(
        theirs["input_ids"],
        mm_token_type_ids=types,
        image_grid_thw=theirs["image_grid_thw"],
        attention_mask=theirs["attention_mask"],
    )
    assert torch.equal(batch.position_ids, expected)
    assert torch.equal(batch.next_position, batch.attention_mask.sum(1) + deltas[:, 0])
    counts = list(map(count, batch.layouts))
    assert types.sum(1).tolist() == counts


@families
@kernels
@pytest.mark.parametrize("probed", [False, True])
@pytest.mark.parametrize("index", [[0, 0, 1, 1, 2, 2, 3, 3], [3, 0, 2, 1, 0, 3], [2]])
def test_logprobs_and_gradients_equal_a_plain_forward_pass(name, attention, probed, index):
    if probed and name in CROSSED:
        pytest.skip("there are no image tokens to read")
    items, owner = ragged_items(), policy(name, attention)
    tokens, mask = responses(name, len(index), 5)
    weight = torch.randn(mask.shape, generator=torch.Generator().manual_seed(1)) * mask
    for model in (owner, plain(name)):
        model.zero_grad()
    reading = Reading(probe=Probe(layers=LAYERS)) if probed else Reading()
    batch = owner.encode(items, PROMPT)
    found = owner(batch, tokens, mask, torch.tensor(index), 0.7, reading).logprobs
    (found * weight).sum().backward()
    total = 0.0
    for row, prompt in enumerate(index):
        response = tokens[row][mask[row]]
        output, _ = plain_output(name, items, prompt, response)
        logits = output.logits[0, -len(response) - 1 : -1] / 0.7
        logs = logits.masked_fill(owner.banned, -torch.inf).log_softmax(-1)
        expected = logs[torch.arange(len(response)), response]
        torch.testing.assert_close(found[row][mask[row]], expected, atol=1e-5, rtol=0)
        total = total + (weight[row][mask[row]] * expected).sum()
    total.backward()
    moved = set()
    for (key, mine), theirs in zip(
        owner.model.named_parameters(), plain(name).parameters(), strict=True
    ):
        if theirs.grad is None:
            assert mine.grad is None or not mine.grad.any(), key
            continue
        moved.add(key.split(".")[1])
        # A gate's one number is a sum of many that cancel out.
        scale = theirs.grad.abs().max().clamp(min=1e-3 if theirs.numel() > 1 else 1e-2)
        assert (mine.grad - theirs.grad).abs().max() / scale < 1e-4, key
    assert bool(VISION & moved) == (index != [2])  # the third prompt has no image


@seeing
@kernels
def test_probed_attention_is_that_of_an_eager_pass(name, attention):
    items, owner = ragged_items(), policy(name, attention)
    index = [0, 0, 1, 1, 2, 2, 3, 3]
    tokens, mask = responses(name, 8, 5)
    batch = owner.encode(items, PROMPT)
    with torch.no_grad():
        probe = Probe(layers=LAYERS, lse=True)
        owner(batch, tokens, mask, torch.tensor(index), 1.0, Reading(probe=probe))
        for row, prompt in enumerate(index):
            response = tokens[row][mask[row]]
            output, image = plain_output(name, items, prompt, response, output_attentions=True)
            for layer in LAYERS:
                read = probe.found[layer]
                weights = (read.logits - read.lse.unsqueeze(-1)).exp()[row, :, : len(response)]
                theirs = output.attentions[layer][0, :, -len(response) :][..., image]
                expected = row_by_row(theirs, batch.layouts[prompt])
                width = expected.shape[-1]
                torch.testing.assert_close(weights[..., :width], expected, atol=1e-5, rtol=0)
                assert not weights[..., width:].any()


@families
@kernels
def test_greedy_tokens_are_those_of_plain_generate(name, attention):
    items, owner = ragged_items(), policy(name, attention)
    settings = Sampling(group_size=1, max_response_length=9, greedy=True)
    batch = owner.encode(items, PROMPT)
    found = HF().generate(owner, batch, [thing.id for thing in items], settings)
    for row, thing in enumerate(items):
        inputs = processed(name, [thing])
        if name in QWEN:
            image = inputs["input_ids"] == plain(name).config.image_token_id
            inputs["mm_token_type_ids"] = image.int()
        expected = plain(name).generate(
            **inputs,
            do_sample=False,
            max_new_tokens=9,
            suppress_tokens=owner.banned.nonzero().flatten().tolist(),
            eos_token_id=owner.eos_id,
            pad_token_id=owner.pad_id,
        )[0, inputs["input_ids"].shape[1] :]
        assert torch.equal(found.tokens[row][found.mask[row]], expected)
    again = owner(batch, found.tokens, found.mask, torch.arange(4)).logprobs
    assert (again - found.logprobs).abs().max() < 1e-5


@families
def test_sampled_groups_have_the_log_probs_that_training_gives_them(name):
    owner, items = policy(name), ragged_items()
    batch = owner.encode(items, PROMPT)
    settings = Sampling(group_size=4, max_response_length=12)
    found = HF().generate(owner, batch, [thing.id for thing in items], settings)
    again = owner(batch, found.tokens, found.mask, torch.arange(4).repeat_interleave(4)).logprobs
    assert (again - found.logprobs).abs().max() < 1e-5


@families
def test_a_saved_twin_is_read_again_and_by_plain_transformers(name, tmp_path):
    owner, batch = policy(name), policy(name).encode([item(0)], PROMPT)
    owner.save(tmp_path)
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path, local_files_only=True)
    for key, value in owner.model.state_dict().items():
        assert torch.equal(theirs.state_dict()[key], value), key
    tokens, mask = responses(name, 1, 4)
    read = twin(name).load(tmp_path)
    index = torch.tensor([0])
    found, expected = read(batch, tokens, mask, index), owner(batch, tokens, mask, index)
    assert torch.equal(found.logprobs, expected.logprobs)


@families
def test_twins_have_the_size_and_the_class_they_promise(name):
    model = REGISTRY.get("backbone", name)().load().model
    assert type(model).__module__.endswith(f"modeling_{name.removeprefix('tiny_')}")
    assert 1e6 <= sum(parameter.numel() for parameter in model.parameters()) <= 2e6


@families
@pytest.mark.parametrize("probed", [False, True])
def test_recomputed_activations_change_no_number(name, probed):
    if probed and name in CROSSED:
        pytest.skip("there are no image tokens to read")
    index = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    tokens, mask = responses(name, 8, 5)
    results = []
    for recomputed in (False, True):
        owner = twin(name).load()
        if recomputed:
            owner.recompute()
        reading = Reading(probe=Probe(layers=LAYERS)) if probed else Reading()
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, kept=kept: kept.append(tensor.numel()) or tensor, lambda tensor: tensor
        ):
            output = owner(owner.encode(ragged_items(), PROMPT), tokens, mask, index, 1.0, reading)
        loss = output.logprobs.sum()
        for read in output.attention.values():  # as EASE: through queries and keys of a layer
            loss = loss + read.logits[read.logits.isfinite()].square().mean()
        loss.backward()
        gradients = [p.grad for p in owner.parameters()]
        results.append((output.logprobs, gradients, sum(kept)))
    (expected, plain_gradients, before), (found, gradients, after) = results
    assert torch.equal(found, expected)
    for mine, theirs in zip(gradients, plain_gradients, strict=True):
        assert (mine is None) == (theirs is None)
        if theirs is not None:
            torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)
    assert after < before / 2


@families
def test_recomputing_records_no_key_twice(name):
    owner = twin(name).load()
    owner.recompute()
    prefix = owner.encode_prefix(owner.encode(ragged_items(), PROMPT))
    (prefix.last_hidden.sum() + sum(keys.sum() for keys in prefix.keys)).backward()
    assert len(prefix.keys) == len(prefix.values) == owner.layers


@pytest.mark.parametrize("name", TWINS)
def test_a_tower_of_one_layer_is_enough(name):
    owner = REGISTRY.get("backbone", name)(**(SIZES | {"vision_depth": 1})).load()
    batch = owner.encode([item(0)], PROMPT)
    tokens, mask = owner.encode_responses(["a"], 4)
    found = owner(batch, tokens, mask, torch.zeros(1, dtype=torch.int64))
    assert torch.isfinite(found.logprobs[mask]).all()
