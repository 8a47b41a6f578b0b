"""Drawing a token: exact frequencies, no token of probability 0, nothing but the own row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vexp.engine._draw import draw, nucleus
from vexp.policy.log_probs import log_distribution
from vexp.policy.randomness import uniforms

LOGITS = torch.tensor([2.0, 0.0, 1.0, -1.0, 0.5, 3.0])
BANNED = torch.tensor([False, False, False, False, False, True])


def many(logits, banned, temperature, top_p, count=20_000):
    distribution = log_distribution(logits.expand(count, -1), banned, temperature)
    numbers = uniforms(0, "test", 0, [str(i) for i in range(count)], [0] * count, 1)
    return draw(distribution, torch.from_numpy(numbers[:, 0]), top_p).numpy()


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
def test_frequencies_are_those_of_the_distribution(temperature):
    drawn = many(LOGITS, BANNED, temperature, 1.0)
    expected = np.exp(LOGITS[:5].numpy().astype(float) / temperature)
    expected *= len(drawn) / expected.sum()
    counts = np.bincount(drawn, minlength=6)
    assert counts[5] == 0
    chi_square = ((counts[:5] - expected) ** 2 / expected).sum()
    assert chi_square < 18.47  # 0.999 quantile at 4 degrees of freedom


def test_frequencies_of_a_nucleus_are_those_of_its_tokens():
    drawn = many(LOGITS, BANNED, 1.0, 0.8)
    weights = np.exp(LOGITS[:5].numpy().astype(float))
    probabilities = weights / weights.sum()  # 0.56, 0.08, 0.21, 0.03, 0.13
    kept = [0, 2, 4]  # 0.56 + 0.21 < 0.8 <= 0.56 + 0.21 + 0.13
    expected = probabilities[kept] / probabilities[kept].sum() * len(drawn)
    counts = np.bincount(drawn, minlength=6)
    assert counts[[1, 3, 5]].sum() == 0
    assert ((counts[kept] - expected) ** 2 / expected).sum() < 13.82  # 0.999, 2 degrees


@given(
    st.lists(st.one_of(st.just(-np.inf), st.floats(-200, 60)), min_size=1, max_size=9),
    st.one_of(st.sampled_from([0.0, 1 - 2**-53, 0.5]), st.floats(0, 1, exclude_max=True)),
    st.sampled_from([1.0, 0.9, 0.3, 1e-9, 0.0]),
)
@settings(max_examples=300, deadline=None)
def test_a_token_of_no_probability_is_never_drawn(logits, uniform, top_p):
    if max(logits) == -np.inf:
        return
    distribution = torch.tensor([logits], dtype=torch.float64).log_softmax(-1).float()
    token = int(draw(distribution, torch.tensor([uniform], dtype=torch.float64), top_p))
    assert distribution[0, token].double().exp() > 0


@given(st.integers(0, 10**6), st.sampled_from([1.0, 0.8]))
@settings(max_examples=30, deadline=None)
def test_a_draw_depends_on_its_own_row_only(seed, top_p):
    generator = torch.Generator().manual_seed(seed)
    distribution = torch.randn(5, 30, generator=generator).log_softmax(-1)
    uniform = torch.rand(5, dtype=torch.float64, generator=generator)
    together = draw(distribution, uniform, top_p)
    for row in range(5):
        assert draw(distribution[row : row + 1], uniform[row : row + 1], top_p) == together[row]


@given(st.integers(0, 10**6), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_a_nucleus_is_the_smallest_set_with_the_mass(seed, top_p):
    probabilities = torch.rand(1, 12, generator=torch.Generator().manual_seed(seed)).double()
    probabilities /= probabilities.sum()
    kept = nucleus(probabilities, top_p)[0]
    count = int((kept > 0).sum())
    ordered = probabilities[0].sort(descending=True).values
    assert torch.equal(kept[kept > 0].sort(descending=True).values, ordered[:count])
    assert count == 1 or float(ordered[: count - 1].sum()) < top_p
    assert count == 12 or float(ordered[:count].sum()) >= top_p - 1e-12
