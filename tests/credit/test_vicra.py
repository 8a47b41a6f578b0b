"""VICRA, against a plain loop."""

from __future__ import annotations

import math
from dataclasses import replace

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
from tests.train.fakes import experience
from vexp.config.schema import build, to_dict
from vexp.credit.vicra import Vicra
from vexp.errors import ConfigError
from vexp.experience.batch import Counterfactual
from vexp.registry import REGISTRY


def vicra(**settings):
    return Vicra(distortion=Blank(), **settings)


def plain_psi(made, score):
    """psi of every response, by the formulas, one token after the other."""
    measured = made.counterfactual[Blank()]
    rows = zip(
        rows_of(made.old_logprobs, made),
        rows_of(measured.logprobs, made),
        rows_of(measured.kl, made),
        made.has_image.tolist(),
        strict=True,
    )
    found = []
    for clean, distorted, kl, seen in rows:
        w = []
        for t in range(len(clean)):
            if not seen:
                w.append(0.0)
            elif score == "kl":
                w.append(kl[t])
            else:
                w.append(math.exp(clean[t]) - math.exp(distorted[t]))
        found.append([1 + (value - sum(w) / len(w)) for value in w])
    return found


def clipped(rows, low, high):
    return [[min(max(value, low), high) for value in row] for row in rows]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("score", ["prob_difference", "kl"])
@pytest.mark.parametrize("clip", [None, (0.0, 1.5)])
def test_as_a_plain_loop(seed, score, clip):
    outcome, made = ragged(seed, blind=(3, 7))
    found = vicra(score=score, psi_clip=clip).advantages(outcome, made)
    psi = plain_psi(made, score)
    psi = clipped(psi, *clip) if clip else psi
    expected = [[a * p for p in row] for a, row in zip(outcome.tolist(), psi, strict=True)]
    matches(found, expected, made)


@pytest.mark.parametrize("score", ["prob_difference", "kl"])
def test_psi_sums_to_the_length(score):
    _, made = ragged(1, blind=(3,))
    psi = vicra(score=score).advantages(torch.ones(len(made)).double(), made)
    torch.testing.assert_close(psi.sum(dim=1), made.mask.sum(dim=1).double())


def test_the_sum_stays_where_the_image_lowers_the_probabilities():
    """A clamp of the sum of w to at least 0, as in the paper's listing, would give 1 + w."""
    made = experience(
        mask=torch.ones(1, 2, dtype=torch.bool),
        group=torch.tensor([0]),
        old_logprobs=torch.tensor([[0.1, 0.2]]).log(),
        counterfactual={Blank(): Counterfactual(torch.tensor([[0.7, 0.4]]).log())},
    )
    psi = vicra().advantages(torch.ones(1).double(), made)
    torch.testing.assert_close(psi, torch.tensor([[0.8, 1.2]]).double())


def test_one_token_no_image_and_equal_scores_are_uniform():
    outcome, made = ragged(2, blind=(3,))
    found = vicra().advantages(outcome, made)
    for row in (1, 3):
        assert rows_of(found, made)[row] == pytest.approx(
            [outcome[row].item()] * made.mask[row].sum()
        )
    same = replace(made, counterfactual={Blank(): Counterfactual(made.old_logprobs)})
    torch.testing.assert_close(vicra().advantages(outcome, same), outcome[:, None] * made.mask)


def test_without_knowledge_of_images_every_response_has_one():
    outcome, made = ragged(2)
    found = vicra().advantages(outcome, replace(made, has_image=None))
    assert found.equal(vicra().advantages(outcome, made))


def test_psi_below_zero_happens_and_is_reported():
    kl = torch.tensor([[6.0, 0.0, 0.0, 0.0], [0.5, 0.1, 0.0, 0.0]])
    made = experience(
        mask=torch.tensor([[True] * 4, [True, True, False, False]]),
        group=torch.tensor([0, 0]),
        counterfactual={Blank(): Counterfactual(torch.zeros(2, 4), kl)},
    )
    found = vicra(score="kl").advantages(torch.tensor([2.0, 1.0]).double(), made)
    assert found[0].tolist() == [11.0, -1.0, -1.0, -1.0]
    assert vicra(score="kl").metrics(made) == {"credit/negative_share": 0.5}
    assert vicra(score="kl", psi_clip=(0.0, 2.0)).metrics(made) == {"credit/negative_share": 0.0}
    bounded = vicra(score="kl", psi_clip=(0.0, 2.0)).advantages(torch.ones(2).double(), made)
    assert bounded[0].tolist() == [2.0, 0.0, 0.0, 0.0]


def test_the_share_of_negative_weights_is_of_all_tokens():
    made = experience(
        mask=torch.tensor([[True, True, True], [True, False, False]]),
        group=torch.tensor([0, 1]),
        has_image=torch.tensor([True, False]),
        old_logprobs=torch.tensor([[0.9, 0.5, 0.5], [0.9, 0.9, 0.9]]).log(),
        counterfactual={
            Blank(): Counterfactual(torch.tensor([[0.1, 0.31, 0.6], [0.1, 0.1, 0.1]]).log())
        },
    )
    found = vicra().metrics(made)
    assert found == {"credit/negative_share": 0.0}


def test_no_tokens_at_all():
    _, made = ragged(0, groups=1, size=2, width=3, lengths=[0, 0])
    assert vicra().advantages(torch.ones(2), made).tolist() == [[0.0] * 3] * 2
    assert vicra().metrics(made) == {"credit/negative_share": 0.0}


@pytest.mark.parametrize("score", ["prob_difference", "kl"])
def test_padding_order_and_gradient(score):
    check_padding_and_order(vicra(score=score))
    check_no_gradient(vicra(score=score))


def test_settings():
    built = build(Vicra, {"psi_clip": [0, 2], "score": "kl"})
    assert built.psi_clip == (0.0, 2.0)
    assert built.required() == ("counterfactual_kl",)
    default = Vicra()
    assert default.required() == ("old_logprobs", "counterfactual_logprobs")
    assert default.distortion == REGISTRY.get("distortion", "discard")()
    assert build(Vicra, {k: v for k, v in to_dict(default).items() if k != "name"}) == default
    with pytest.raises(ConfigError, match="leaves out 1"):
        build(Vicra, {"psi_clip": [0, 0.5]})
