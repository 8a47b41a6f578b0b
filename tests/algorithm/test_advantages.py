"""Advantages within groups, and the KL estimate."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vexp.algorithm.base import aggregation_weights, equal_rewards, k3
from vexp.registry import REGISTRY

REWARDS = st.floats(-10, 10, allow_nan=False, allow_subnormal=False)


@given(groups=st.lists(st.lists(REWARDS, min_size=2, max_size=6), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_grpo_standardises_and_dr_grpo_centres_each_group(groups):
    rewards = torch.tensor([r for group in groups for r in group], dtype=torch.float64)
    index = torch.tensor([i for i, group in enumerate(groups) for _ in group])
    grpo = REGISTRY.get("algorithm", "grpo")().advantages(rewards, index).tolist()
    dr_grpo = REGISTRY.get("algorithm", "dr_grpo")().advantages(rewards, index).tolist()
    expected, centred = [], []
    for group in groups:
        mean, spread = math.fsum(group) / len(group), statistics.stdev(group)
        centred += [r - mean for r in group]
        expected += [(r - mean) / (spread + 1e-6) for r in group]
    assert dr_grpo == pytest.approx(centred, abs=1e-9)
    assert grpo == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", REGISTRY.names("algorithm"))
@pytest.mark.parametrize("value", [0.1, 0.0, -0.3, 1e6 / 3])
@pytest.mark.parametrize("size", [2, 3, 7])
def test_equal_rewards_give_exactly_zero(name, value, size):
    """0.1 + 0.1 + 0.1 is not 3 * 0.1 in floats; the advantage is 0 all the same."""
    rewards = torch.tensor([value] * size + [0.0, 1.0] * 2, dtype=torch.float64)
    group = torch.tensor([0] * size + [1] * 4)
    advantages = REGISTRY.get("algorithm", name)().advantages(rewards, group)
    assert advantages[:size].tolist() == [0.0] * size
    assert (advantages[size:] != 0).all()


def test_rewards_that_differ_by_rounding_only_are_equal():
    rewards = torch.tensor([0.1 + 0.2, 0.3, 0.3, 0.3 + 1e-9], dtype=torch.float64)
    assert equal_rewards(rewards, torch.tensor([0, 0, 1, 1])).tolist() == [True, False]


def test_groups_of_unequal_size_in_any_order():
    rewards = torch.tensor([1.0, 5.0, 0.0, 7.0, 1.0], dtype=torch.float64)
    group = torch.tensor([0, 1, 0, 1, 0])
    found = REGISTRY.get("algorithm", "dr_grpo")().advantages(rewards, group)
    torch.testing.assert_close(found, torch.tensor([1 / 3, -1, -2 / 3, 1, 1 / 3]).double())


def test_k3_is_never_negative_and_estimates_the_kl_of_a_known_pair():
    p, q = torch.tensor([0.7, 0.2, 0.1]).double(), torch.tensor([0.4, 0.4, 0.2]).double()
    estimate = k3(p.log(), q.log())
    assert (estimate >= 0).all()
    exact = (p * (p / q).log()).sum()
    torch.testing.assert_close((p * estimate).sum(), exact)
    assert not torch.isclose((p * k3(q.log(), p.log())).sum(), exact)  # directions differ
    assert k3(p.log(), p.log()).tolist() == [0.0, 0.0, 0.0]


def test_k3_is_clamped():
    far = k3(torch.tensor([-500.0, 0.0]), torch.tensor([0.0, -500.0]))
    assert far.tolist() == [10.0, 10.0]


@pytest.mark.parametrize(
    "mode",
    ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"],
)
def test_empty_and_one_token_responses_have_finite_weights(mode):
    mask = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    weights = aggregation_weights(mask, mode, 3)
    assert weights.isfinite().all()
    assert (weights[~mask] == 0).all()
    assert (weights[mask] > 0).all()
    assert aggregation_weights(torch.zeros(2, 3, dtype=torch.bool), mode, 3).sum() == 0
