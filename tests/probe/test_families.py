"""The probe in tiny models of every family, against eager attention and unprobed runs."""

import pytest
import torch
from transformers import DynamicCache

from tests.probe.families import FAMILIES, ROWS, attention_of, continued, fresh, shared, use
from vexp.probe.attention import Probe, register

PADDED, SINGLE = ROWS, ROWS[1:]  # a batch without padding gets no mask at all from transformers


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def batch_of(family, rows=PADDED):
    return FAMILIES[family].batch(rows)


def probe_of(family, batch, **options):
    layers = set(FAMILIES[family].layers)
    return Probe(
        layers=layers, image_index=batch.image_index, image_mask=batch.image_mask, **options
    )


def run(model, kernel, batch, **options):
    return use(model, kernel)(**batch.inputs, use_cache=False, **options)


@torch.no_grad()
def eager_on_image(family, batch, layer):
    """[row, head, query, image token]; zero where there is no image token."""
    attentions = run(shared(family), "eager", batch, output_attentions=True).attentions
    assert len(attentions) == 4
    weights = attentions[layer]
    index = batch.image_index[:, None, None].expand(*weights.shape[:3], -1)
    return weights.gather(3, index) * batch.image_mask[:, None, None]


def check(family, batch, probe, rows):
    """That what was read is what eager attention weighs, for queries after the image."""
    positions = torch.arange(batch.sighted.shape[1]).expand(len(batch.sighted), -1)
    positions = positions if rows is None else rows
    sighted = batch.sighted.gather(1, positions)
    assert sighted.any(1).all()
    for layer in FAMILIES[family].layers:
        read = probe.found[layer]
        expected = eager_on_image(family, batch, layer)
        expected = expected.gather(2, positions[:, None, :, None].expand_as(read.logits))
        expected = expected.transpose(1, 2)[sighted]
        over_all = (read.logits - read.lse.unsqueeze(-1)).exp().transpose(1, 2)[sighted]
        over_image = read.logits.softmax(-1).transpose(1, 2)[sighted]
        assert over_all.max() > 0.2  # far from uniform
        torch.testing.assert_close(over_all, expected, atol=1e-5, rtol=0)
        renormalised = expected / expected.sum(-1, keepdim=True)
        torch.testing.assert_close(over_image, renormalised, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("rows", [PADDED, SINGLE], ids=["padded", "single"])
def test_all_queries_read_the_eager_weights_on_image_tokens(family, kernel, rows):
    batch = batch_of(family, rows)
    probe = probe_of(family, batch, lse=True)
    with torch.no_grad():
        run(shared(family), register(kernel), batch, probe=probe)
    check(family, batch, probe, rows=None)


@pytest.mark.parametrize("rows", [PADDED, SINGLE], ids=["padded", "single"])
def test_chosen_queries_read_the_eager_weights_on_image_tokens(family, rows):
    batch = batch_of(family, rows)
    last = batch.sighted.shape[1] - 1
    chosen = torch.tensor([[last, last - 3, last - 2], [last - 1, last, last - 6]])[: len(rows)]
    probe = probe_of(family, batch, rows=chosen, lse=True)
    with torch.no_grad():
        run(shared(family), register("sdpa"), batch, probe=probe)
    check(family, batch, probe, chosen)


@pytest.mark.parametrize("rows", [PADDED, SINGLE], ids=["padded", "single"])
def test_a_probe_leaves_the_models_output_as_it_is(family, rows):
    batch = batch_of(family, rows)
    with torch.no_grad():
        plain = run(shared(family), "sdpa", batch).logits
        probed = run(shared(family), register("sdpa"), batch, probe=probe_of(family, batch)).logits
        idle = run(shared(family), register("sdpa"), batch).logits
    there = batch.inputs["attention_mask"].bool()
    torch.testing.assert_close(probed[there], plain[there], atol=1e-6, rtol=0)
    torch.testing.assert_close(idle[there], plain[there], atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_decoding_step_reads_what_a_whole_forward_reads(family):
    batch = batch_of(family)
    whole, step = continued(shared(family), batch, torch.tensor([[7], [8]]))
    steps = {}
    for kernel in ("sdpa", register("sdpa")):
        model, cache = use(shared(family), kernel), DynamicCache()
        probe = {"probe": probe_of(family, batch, lse=True)} if kernel != "sdpa" else {}
        model(**batch.inputs, past_key_values=cache, use_cache=True)
        steps[kernel] = model(**step, past_key_values=cache, use_cache=True, **probe).logits
    torch.testing.assert_close(steps[register("sdpa")], steps["sdpa"], atol=1e-6, rtol=0)

    at_once = probe_of(family, batch, lse=True, rows=torch.full((2, 1), batch.sighted.shape[1]))
    model(**whole, use_cache=False, probe=at_once)
    for layer, read in probe["probe"].found.items():
        torch.testing.assert_close(read.logits, at_once.found[layer].logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(read.lse, at_once.found[layer].lse, atol=1e-5, rtol=1e-5)


def gradients(family, layer, *, lse=False, **checkpointing):
    """Of every layer's q_proj and k_proj, or None, by a loss on what was read in one layer."""
    model = use(fresh(family), register("sdpa"))
    batch = batch_of(family)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(checkpointing)
    probe = probe_of(family, batch, lse=lse)
    run(model, probe=probe, kernel=register("sdpa"), batch=batch)
    read = probe.found[layer]
    loss = read.logits.softmax(-1).square().transpose(1, 2)[batch.sighted].sum()
    if lse:
        loss = loss + read.lse.transpose(1, 2)[batch.sighted].sum()
    loss.backward()
    assert probe.found[layer] is read  # not what a checkpoint computed again
    return [
        (
            attention_of(model, number).q_proj.weight.grad,
            attention_of(model, number).k_proj.weight.grad,
        )
        for number in range(4)
    ]


def test_gradients_reach_the_read_layer_and_those_below(family):
    early, last = FAMILIES[family].layers
    found = gradients(family, early, lse=True)
    for number, pair in enumerate(found):
        for gradient in pair:
            if number <= early:
                assert gradient.isfinite().all() and gradient.norm() > 1e-4
            else:
                assert gradient is None or not gradient.any()
    assert all(gradient.norm() > 1e-4 for pair in gradients(family, last) for gradient in pair)


def test_gradient_checkpointing_leaves_gradients_as_they_are(family):
    last = FAMILIES[family].layers[1]
    plain = gradients(family, last)
    saved = gradients(family, last, use_reentrant=False)
    for expected, found in zip(plain, saved, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_reentrant_checkpointing_gives_readings_without_gradient():
    model = use(fresh("qwen2_5_vl"), register("sdpa")).train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    batch = batch_of("qwen2_5_vl")
    probe = probe_of("qwen2_5_vl", batch)
    assert run(model, register("sdpa"), batch, probe=probe).logits.requires_grad
    assert not any(read.logits.requires_grad for read in probe.found.values())


@torch.no_grad()
def test_pieces_handed_over_join_to_the_whole_reading(family, monkeypatch):
    monkeypatch.setattr("vexp.probe.attention.ROWS_AT_ONCE", 5)
    batch = batch_of(family)
    whole, pieces = probe_of(family, batch, lse=True), {}
    in_pieces = probe_of(
        family,
        batch,
        lse=True,
        consume=lambda layer, piece: pieces.setdefault(layer, []).append(piece),
    )
    for probe in (whole, in_pieces):
        run(shared(family), register("sdpa"), batch, probe=probe)
    assert not in_pieces.found
    for layer, read in whole.found.items():
        starts = [piece.start for piece in pieces[layer]]
        assert starts == list(range(0, read.logits.shape[2], 5))
        for name in ("logits", "lse"):
            joined = torch.cat([getattr(piece, name) for piece in pieces[layer]], dim=2)
            torch.testing.assert_close(joined, getattr(read, name), atol=1e-6, rtol=1e-6)
