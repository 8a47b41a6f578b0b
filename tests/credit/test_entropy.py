"""Entropy advantage shaping, against a plain loop."""

from __future__ import annotations

import pytest
import torch

from tests.credit.ragged import check_no_gradient, check_padding_and_order, matches, ragged, rows_of
from tests.train.fakes import experience
from vexp.config.schema import build
from vexp.credit.entropy import Entropy
from vexp.errors import ConfigError


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("alpha", "kappa"), [(0.4, 2.0), (0.1, 1.5), (0.0, 3.0)])
def test_as_a_plain_loop(seed, alpha, kappa):
    outcome, made = ragged(seed, blind=(2,))
    found = Entropy(alpha=alpha, kappa=kappa).advantages(outcome, made)
    expected = [
        [a + min(alpha * h, abs(a) / kappa) for h in row]
        for a, row in zip(outcome.tolist(), rows_of(made.entropy, made), strict=True)
    ]
    matches(found, expected, made)


def test_the_bonus_is_capped_and_never_turns_a_sign():
    mask = torch.ones(3, 2, dtype=torch.bool)
    made = experience(
        mask=mask, group=torch.zeros(3, dtype=torch.long), entropy=torch.tensor([[0.5, 9.0]] * 3)
    )
    found = Entropy().advantages(torch.tensor([1.0, -1.0, 0.0]).double(), made)
    expected = torch.tensor([[1.2, 1.5], [-0.8, -0.5], [0.0, 0.0]]).double()
    torch.testing.assert_close(found, expected)


def test_an_entropy_rounded_below_zero_moves_nothing():
    mask = torch.ones(2, 1, dtype=torch.bool)
    made = experience(
        mask=mask, group=torch.zeros(2, dtype=torch.long), entropy=torch.full((2, 1), -1e-7)
    )
    assert Entropy().advantages(torch.tensor([0.0, 1.0]), made).tolist() == [[0.0], [1.0]]


def test_padding_order_and_gradient():
    check_padding_and_order(Entropy())
    check_no_gradient(Entropy())


@pytest.mark.parametrize("setting", [{"kappa": 1.0}, {"alpha": -0.1}])
def test_settings_out_of_range(setting):
    with pytest.raises(ConfigError, match="out of range"):
        build(Entropy, setting)
