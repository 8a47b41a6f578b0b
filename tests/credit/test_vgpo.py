"""VGPO, against a plain loop."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from tests.credit.ragged import check_no_gradient, check_padding_and_order, matches, ragged, rows_of
from vexp.config.schema import build
from vexp.credit.vgpo import Vgpo
from vexp.errors import ConfigError

EPS = 1e-8


def exact(number):
    """The decimal number that a setting was written as."""
    return Fraction(str(number))


def plain_weights(credit, rows, released):
    """rho and w of each response; positions count from 1."""
    everything = [s for row in rows for s in row]
    found = []
    for row in rows:
        n = len(row)
        if released:
            low, high = min(everything), max(everything)
            rho = [(s - low) / (high - low + EPS) for s in row]
        else:
            rho = [(s + 1) / 2 for s in row]
        share = Fraction(1) if credit.scope == "full" else exact(credit.gamma)
        tail = [t for t in range(1, n + 1) if t > (1 - share) * n]
        threshold = math.inf
        if tail:
            k = max(1, math.floor(exact(credit.kappa) * len(tail)))
            threshold = sorted((rho[t - 1] for t in tail), reverse=True)[k - 1]
        w = []
        for t in range(1, n + 1):
            u = t / n
            if released:
                u = (t - 1) / (n - 1) if n > 1 else 0.0
            gain = {"linear": u, "step": float(u >= credit.step_at), "exponential": u**credit.power}
            gate = t in tail and rho[t - 1] >= threshold
            w.append(rho[t - 1] * (1 + gate * credit.beta * gain[credit.schedule]))
        found.append((rho, w))
    return found


def scaled(values):
    low, high = min(values), max(values)
    return [(v - low) / (high - low + EPS) for v in values]


def plain(credit, outcome, made):
    released = credit.compat == "released"
    rows, group = rows_of(made.similarity, made), made.group.tolist()
    chosen = [i for i, row in enumerate(rows) if row and made.has_image[i]]
    weights = dict(
        zip(chosen, plain_weights(credit, [rows[i] for i in chosen], released), strict=True)
    )
    one_psi = {i: [1.0] * len(row) for i, row in enumerate(rows)}
    s = {}
    for i, (rho, w) in weights.items():
        what = scaled(w)
        if credit.intra:
            one_psi[i] = [1 + x - sum(what) / len(what) for x in what]
            if released:
                one_psi[i] = [min(max(x, 0.1), 2.0) for x in one_psi[i]]
        summed = w
        if released:
            summed = what if credit.intra else scaled(rho)
        s[i] = sum(summed) / (len(summed) if credit.inter_reduce == "mean" else 1)
    one_phi = dict.fromkeys(range(len(rows)), 1.0)
    for g in set(group):
        members = [i for i in chosen if group[i] == g]
        if credit.inter and members:
            shat = scaled([s[i] for i in members])
            for i, x in zip(members, shat, strict=True):
                one_phi[i] = 1 + x - sum(shat) / len(shat)
                if released:
                    one_phi[i] = min(max(one_phi[i], 0.9), 2.0)
    return [[a * psi * one_phi[i] for psi in one_psi[i]] for i, a in enumerate(outcome.tolist())]


SETTINGS = [
    {},
    {"inter": False},
    {"intra": False},
    {"schedule": "step", "step_at": 0.3},
    {"schedule": "exponential", "power": 3.0},
    {"scope": "full"},
    {"gamma": 0.9, "kappa": 0.6},
    {"gamma": 0.0},
    {"gamma": 1.0, "kappa": 1.0, "beta": 2.0},
    {"inter_reduce": "mean"},
    {"kappa": 0.0, "gamma": 0.3},
]


@pytest.mark.parametrize("compat", ["paper", "released"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_as_a_plain_loop(settings, compat):
    credit = Vgpo(compat=compat, **settings)
    for seed in range(3):
        outcome, made = ragged(seed, width=11, blind=(3, 8, 9))
        matches(credit.advantages(outcome, made), plain(credit, outcome, made), made)


def test_shares_of_a_length_are_taken_exactly():
    """(1 - 0.9) * 10 is 0.99... in floating point, and 0.29 * 100 is 28.99..."""
    for settings in ({"gamma": 0.9}, {"gamma": 1.0, "kappa": 0.29}, {"gamma": 0.7, "kappa": 0.1}):
        credit = Vgpo(beta=5.0, inter=False, **settings)
        outcome, made = ragged(3, groups=1, size=2, width=100, lengths=[10, 100])
        matches(credit.advantages(outcome, made), plain(credit, outcome, made), made)


@pytest.mark.parametrize("scope", ["late", "full"])
def test_psi_sums_to_zero_over_a_response_and_phi_over_a_group(scope):
    _, made = ragged(4, blind=(3,))
    ones = torch.ones(len(made)).double()
    psi = (Vgpo(inter=False, scope=scope).advantages(ones, made) - 1).masked_fill(~made.mask, 0)
    assert psi.sum(dim=1).abs().max() < 1e-9
    assert psi.abs().max() > 0.1
    phi = Vgpo(intra=False, scope=scope).advantages(ones, made)[:, 0] - 1
    for g in range(3):
        members = (made.group == g) & made.mask[:, 0]
        assert phi[members].sum().abs() < 1e-9
        assert phi[members].abs().max() > 0.1


def test_without_an_image_or_a_difference_the_factor_is_one():
    outcome, made = ragged(5, blind=(3,))
    found = Vgpo().advantages(outcome, made)
    torch.testing.assert_close(found[3], outcome[3] * made.mask[3])
    flat = replace(made, similarity=torch.full(made.mask.shape, 0.25))
    alike = Vgpo(beta=0.0, inter_reduce="mean").advantages(outcome, flat)
    torch.testing.assert_close(alike, outcome[:, None] * made.mask)
    alike = Vgpo(beta=0.0, compat="released").advantages(outcome, flat)
    torch.testing.assert_close(alike, outcome[:, None] * made.mask)


def test_nothing_to_see_in_the_whole_batch():
    outcome, made = ragged(5, blind=range(12))
    for compat in ("paper", "released"):
        found = Vgpo(compat=compat).advantages(outcome, made)
        torch.testing.assert_close(found, outcome[:, None] * made.mask)


def test_a_response_of_one_token_has_only_its_groups_factor():
    outcome, made = ragged(6, groups=1, size=2, lengths=[1, 3])
    found = Vgpo().advantages(outcome, made)
    assert found[0, 0].item() == pytest.approx(0.5 * outcome[0].item())  # shat is 0, its mean 0.5


def test_the_released_clamps():
    ones = torch.ones(8).double()
    _, made = ragged(7, groups=2, width=40, lengths=[40] * 8)
    tokens = Vgpo(compat="released", inter=False).advantages(ones, made)
    assert tokens.min() >= 0.1
    responses = Vgpo(compat="released", intra=False).advantages(ones, made)
    assert responses.min() == 0.9
    assert Vgpo(intra=False).advantages(ones, made).min() < 0.9


@pytest.mark.parametrize("compat", ["paper", "released"])
def test_padding_order_and_gradient(compat):
    check_padding_and_order(Vgpo(compat=compat))
    check_no_gradient(Vgpo(compat=compat))


def test_only_the_released_form_looks_across_groups():
    assert not Vgpo().across_groups
    assert Vgpo(compat="released").across_groups


@pytest.mark.parametrize("setting", [{"gamma": 1.1}, {"kappa": -0.1}, {"eps": 0}, {"beta": -1}])
def test_settings_out_of_range(setting):
    with pytest.raises(ConfigError, match="out of range"):
        build(Vgpo, setting)
