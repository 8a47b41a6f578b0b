"""The probe's arithmetic against plain loops, and how it calls the kernels it wraps."""

import math
from types import SimpleNamespace

import pytest
import torch
from transformers import AttentionInterface, PreTrainedConfig

from vexp.probe.attention import Probe, grouped_logits, masked_lse, register

HEADS, KV_HEADS, SIZE, SCALING = 4, 2, 3, 0.7


def tensors(*, rows=4, groups=2, queries=3, keys=5, dtype=torch.float32):
    torch.manual_seed(0)
    query = torch.randn(rows, HEADS, queries, SIZE, dtype=dtype)
    return query, torch.randn(groups, KV_HEADS, keys, SIZE, dtype=dtype)


def plain_logit(query, keys, row, head, position, key):
    group, kv_head = row // (len(query) // len(keys)), head // (HEADS // KV_HEADS)
    products = zip(
        query[row, head, position].tolist(), keys[group, kv_head, key].tolist(), strict=True
    )
    return SCALING * math.fsum(a * b for a, b in products)


def plain_lse(query, keys, chosen, bias):
    """`bias(row, head, query position, key)` is added to a logit; -inf leaves the key out."""
    result = torch.empty(len(query), HEADS, chosen.shape[1], dtype=torch.float64)
    for row in range(len(query)):
        for head in range(HEADS):
            for number, position in enumerate(chosen[row].tolist()):
                terms = [
                    math.exp(
                        plain_logit(query, keys, row, head, position, key)
                        + bias(row, head, position, key)
                    )
                    for key in range(keys.shape[2])
                ]
                total = math.fsum(terms)
                result[row, head, number] = math.log(total) if total else -math.inf
    return result


def check_lse(mask, causal, bias, *, queries=3, keys=5):
    query, key = tensors(queries=queries, keys=keys)
    lse = masked_lse(key, mask, SCALING, causal, queries)
    everything = torch.arange(queries).unsqueeze(0)
    chosen = torch.tensor([[2, 0], [1, 1], [0, 2], [2, 1]])
    place = chosen[:, None, :, None].expand(-1, HEADS, -1, SIZE)
    before = keys - queries

    def own(row, head, position, seen):
        return bias(row, head, position, seen) if seen >= before else -math.inf

    for (found, found_own), positions in (
        (lse(query, everything), everything.expand(len(query), -1)),
        (lse(query.gather(2, place), chosen), chosen),
    ):
        expected = plain_lse(query, key, positions, bias)
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
        if before <= 0:
            assert found_own is None
        else:
            expected = plain_lse(query, key, positions, own)
            torch.testing.assert_close(found_own.double(), expected, atol=1e-5, rtol=1e-5)


def hidden(seen):
    return 0.0 if seen else -math.inf


def test_logits_are_the_scaled_products_of_grouped_heads_and_rows():
    query, keys = tensors()
    found = grouped_logits(query, keys, SCALING)
    for row, head, position, key in torch.cartesian_prod(*map(torch.arange, found.shape)).tolist():
        expected = plain_logit(query, keys, row, head, position, key)
        assert found[row, head, position, key].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("heads", [1, HEADS])
def test_lse_under_a_boolean_mask(heads):
    mask = torch.rand(4, heads, 3, 5, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[..., 0] = True
    check_lse(mask, True, lambda row, head, at, key: hidden(mask[row, head % heads, at, key]))


def test_lse_under_a_boolean_mask_shared_by_rows():
    mask = torch.rand(1, 1, 3, 5, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[..., 0] = True
    check_lse(mask, True, lambda row, head, at, key: hidden(mask[0, 0, at, key]))


@pytest.mark.parametrize("heads", [1, HEADS])
def test_lse_under_an_additive_mask(heads):
    mask = torch.randn(4, heads, 3, 5, generator=torch.Generator().manual_seed(1))
    mask[..., 3] = torch.finfo(torch.float32).min
    check_lse(mask, True, lambda row, head, at, key: mask[row, head % heads, at, key].item())


def test_lse_under_a_mask_made_for_a_longer_cache():
    mask = torch.ones(4, 1, 3, 8, dtype=torch.bool)
    mask[..., 2] = False
    check_lse(mask, True, lambda row, head, at, key: hidden(key != 2))


def test_lse_of_causal_queries_under_a_padding_mask():
    mask = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    check_lse(mask, True, lambda row, head, at, key: hidden(mask[row, key] and key <= at + 2))


def test_lse_of_queries_that_are_not_causal_under_a_padding_mask():
    mask = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 0, 1], [1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    check_lse(mask, False, lambda row, head, at, key: hidden(mask[row, key]))


@pytest.mark.parametrize("keys", [3, 5])
def test_lse_without_a_mask_is_causal_and_aligned_on_the_right(keys):
    check_lse(None, True, lambda row, head, at, key: hidden(key <= at + keys - 3), keys=keys)


def test_lse_without_a_mask_is_over_all_keys_where_attention_is_not_causal():
    check_lse(None, False, lambda row, head, at, key: 0.0)


def test_gradients_are_finite_where_a_query_sees_nothing():
    query, keys = tensors()
    query.requires_grad_()
    mask = torch.ones(4, 1, 3, 5, dtype=torch.bool)
    mask[:, :, 0] = False
    lse, _ = masked_lse(keys, mask, SCALING, True, 3)(query, torch.arange(3).unsqueeze(0))
    lse[:, :, 1:].sum().backward()
    assert query.grad.isfinite().all()


def test_logits_are_minus_infinity_where_a_row_has_no_image_token():
    query, keys = tensors()
    index, mask = torch.tensor([[1, 4, 0], [2, 0, 0]]), torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    probe = Probe(layers={0}, image_index=index, image_mask=mask)
    probe.read(0, query, keys, SCALING)
    found, every = probe.found[0].logits, grouped_logits(query, keys, SCALING)
    torch.testing.assert_close(found[:2], every[:2, :, :, [1, 4, 0]])
    torch.testing.assert_close(found[2:, :, :, 0], every[2:, :, :, 2])
    assert (found[2:, :, :, 1:] == -torch.inf).all()


def test_a_flash_kernel_is_loaded_under_its_own_name(monkeypatch):
    loaded = []

    def kernel(query, key, value, mask, *, attn_implementation, **_):
        loaded.append(attn_implementation)
        return query

    monkeypatch.setattr(
        "transformers.integrations.flash_attention._flash_attention_forward", kernel
    )
    name = register("flash_attention_2")
    config = PreTrainedConfig(attn_implementation=name)
    module = SimpleNamespace(config=config, is_causal=True, layer_idx=0)
    query, keys = tensors(rows=2, dtype=torch.bfloat16)
    AttentionInterface()[name](module, query, keys, keys, None, scaling=SCALING)
    assert loaded == ["flash_attention_2"]
    assert config._attn_implementation == name
