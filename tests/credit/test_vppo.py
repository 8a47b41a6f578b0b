"""VPPO, against a plain loop."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from tests.credit.ragged import (
    Blank,
    check_no_gradient,
    check_padding_and_order,
    matches,
    ragged,
    rows_of,
)
from vexp.config.schema import build, to_dict
from vexp.credit.vppo import Vppo
from vexp.errors import ConfigError
from vexp.experience.batch import Counterfactual
from vexp.registry import REGISTRY


def vppo(**settings):
    return Vppo(distortion=Blank(), **settings)


def plain(credit, outcome, made):
    """Advantages, factors and how many tokens are kept, one token after the other."""
    measured = made.counterfactual[Blank()]
    clean, distorted = rows_of(made.old_logprobs, made), rows_of(measured.logprobs, made)
    exact, seen = rows_of(measured.kl, made), made.has_image.tolist()
    dependency = []
    for i, row in enumerate(clean):
        s = []
        for t in range(len(row)):
            d = min(max(distorted[i][t] - row[t], -20.0), 20.0)
            k3 = min(max(math.exp(d) - d - 1, 0.0), 10.0)
            s.append(exact[i][t] if credit.estimator == "exact" else k3)
        dependency.append(s)
    mean = {i: sum(s) / len(s) for i, s in enumerate(dependency) if s and seen[i]}
    factor = [1.0] * len(clean)
    if mean and max(mean.values()) - min(mean.values()) > 1e-6:
        low, high = min(mean.values()), max(mean.values())
        x = {i: (value - low) / (high - low) for i, value in mean.items()}
        b_max = credit.b_min + (1 - credit.b_min) / (sum(x.values()) / len(x) + 1e-8)
        for i, place in x.items():
            factor[i] = credit.b_min + place * (b_max - credit.b_min)
    kept = []
    for i, s in enumerate(dependency):
        k = math.ceil(Fraction(str(credit.rho)) * len(s)) if seen[i] else len(s)
        best = sorted(range(len(s)), key=lambda t: (-s[t], t))[:k]
        kept.append([t in best for t in range(len(s))])
    total, selected = sum(map(len, kept)), sum(map(sum, kept))
    scale = total / selected if credit.normalise == "selected" and selected else 1.0
    found = [
        [a * factor[i] * scale * keep for keep in kept[i]] for i, a in enumerate(outcome.tolist())
    ]
    return found, factor, selected / max(1, total)


SETTINGS = [
    {},
    {"estimator": "exact"},
    {"rho": 0.1},
    {"rho": 1.0, "b_min": 0.0},
    {"normalise": "selected"},
    {"b_min": 1.0, "rho": 0.7},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_as_a_plain_loop(settings):
    credit = vppo(**settings)
    for seed in range(4):
        outcome, made = ragged(seed, blind=(3, 8), width=10)
        expected, _, share = plain(credit, outcome, made)
        matches(credit.advantages(outcome, made), expected, made)
        assert credit.metrics(made) == {"credit/kept_share": pytest.approx(share)}


def test_the_share_of_a_length_is_taken_exactly():
    """0.07 * 100 is 7.000000000000001 in floating point, and 0.29 * 100 is 28.99..."""
    for rho, length, count in (
        (0.07, 100, 7),
        (0.4, 5, 2),
        (0.29, 100, 29),
        (0.4, 1, 1),
        (0.4, 3, 2),
    ):
        outcome, made = ragged(1, groups=1, size=2, width=length, lengths=[length, length])
        found = vppo(rho=rho).advantages(outcome, made)
        assert (found != 0).sum(dim=1).tolist() == [count, count]


@pytest.mark.parametrize("estimator", ["k3", "exact"])
def test_the_mean_factor_is_one(estimator):
    _, made = ragged(2, blind=(3, 5))
    ones = torch.ones(len(made)).double()
    credit = vppo(rho=1.0, estimator=estimator)
    factor = credit.advantages(ones, made)[:, 0][made.mask[:, 0]]
    assert factor.mean().item() == pytest.approx(1.0, abs=1e-6)
    assert factor.min().item() == pytest.approx(0.9)
    assert factor.max().item() > 1.0


def test_a_factor_at_its_smallest_for_the_least_dependent_response():
    kl = torch.tensor([[1.0, 1.0], [3.0, 3.0]])
    _, made = ragged(0, groups=1, size=2, width=2, lengths=[2, 2])
    made = replace(made, counterfactual={Blank(): Counterfactual(torch.zeros(2, 2), kl)})
    found = vppo(estimator="exact", rho=1.0).advantages(torch.ones(2).double(), made)
    torch.testing.assert_close(found, torch.tensor([[0.9, 0.9], [1.1, 1.1]]).double())


def test_equal_scores_keep_the_earliest_and_the_factor_is_one():
    _, made = ragged(3, groups=1, size=2, width=5, lengths=[5, 3])
    same = replace(made, counterfactual={Blank(): Counterfactual(made.old_logprobs)})
    found = vppo().advantages(torch.ones(2).double(), same)
    assert found.tolist() == [[1.0, 1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0, 0.0]]


def test_a_response_without_an_image_keeps_uniform_credit_and_moves_no_other():
    outcome, made = ragged(4, blind=(3, 4))
    found = vppo().advantages(outcome, made)
    for row in (3, 4):
        torch.testing.assert_close(found[row], outcome[row] * made.mask[row])
    changed = made.counterfactual[Blank()].logprobs.clone()
    changed[3:5] = -9.0
    other = replace(made, counterfactual={Blank(): Counterfactual(changed)})
    assert vppo().advantages(outcome, other).equal(found)


def test_no_image_and_no_token_anywhere():
    outcome, made = ragged(4, blind=range(12))
    for normalise in ("valid", "selected"):
        found = vppo(normalise=normalise).advantages(outcome, made)
        torch.testing.assert_close(found, outcome[:, None] * made.mask)
        _, empty = ragged(4, groups=1, size=2, width=2, lengths=[0, 0])
        assert vppo(normalise=normalise).advantages(torch.ones(2), empty).tolist() == [[0, 0]] * 2
    assert vppo().metrics(empty) == {"credit/kept_share": 0.0}


def test_selected_tokens_weigh_as_much_as_all_would():
    _, made = ragged(5)
    ones = torch.ones(len(made)).double()
    found = vppo(b_min=1.0, normalise="selected").advantages(ones, made)
    assert found.sum().item() == pytest.approx(made.mask.sum().item())


@pytest.mark.parametrize("estimator", ["k3", "exact"])
def test_padding_order_and_gradient(estimator):
    check_padding_and_order(vppo(estimator=estimator))
    check_no_gradient(vppo(estimator=estimator))


def test_settings():
    default = Vppo()
    patches = REGISTRY.get("distortion", "patch_black")
    assert default.distortion == patches(mask_ratio=0.5, per="rollout")
    assert build(Vppo, {k: v for k, v in to_dict(default).items() if k != "name"}) == default
    assert default.required() == ("old_logprobs", "counterfactual_logprobs")
    assert Vppo(estimator="exact").required() == ("counterfactual_kl",)
    assert default.across_groups
    with pytest.raises(ConfigError, match="out of range"):
        build(Vppo, {"rho": 0.0})
