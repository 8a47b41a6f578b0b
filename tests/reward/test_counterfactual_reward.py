"""The reward for looking where it matters, against plain loops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tests.train.fakes import experience
from vexp.experience.batch import Counterfactual, ImageAttention
from vexp.registry import REGISTRY

LAYERS = 6
LAYER = 4  # two thirds of them


def term(**fields):
    return REGISTRY.get("reward", "counterfactual")(**fields)


BOTH = pytest.mark.parametrize("score", ["logprob", "kl"])


def made(effect, share, *, right=None, lengths=None, evidence=3, score="logprob"):
    """Responses by how much each token depends on the evidence, and how much it attends to it."""
    effect, share = torch.tensor(effect), torch.tensor(share)
    rows, width = effect.shape
    mask = torch.arange(width) < torch.tensor(lengths or [width] * rows)[:, None]
    zeros = torch.zeros(rows, width)
    old = torch.full((rows, width), -0.5)
    measured = Counterfactual(old - effect) if score == "logprob" else Counterfactual(old, effect)
    counts = torch.full((rows,), 12), torch.as_tensor(evidence).expand(rows)
    return experience(
        mask=mask,
        group=torch.zeros(rows, dtype=torch.long),
        old_logprobs=old if score == "logprob" else None,
        accuracies=torch.tensor(right or [1.0] * rows, dtype=torch.float64),
        counterfactual={term().distortion: measured},
        attention={LAYER: ImageAttention(zeros, zeros, share, zeros, *counts)},
        layers=LAYERS,
    )


def random_batch(seed, score, rows=40, width=9):
    draw = torch.Generator().manual_seed(seed)
    effect = torch.randn(rows, width, generator=draw)
    lengths = torch.randint(0, width + 1, (rows,), generator=draw)
    lengths[:2] = torch.tensor([0, 1])
    return made(
        (effect.abs() if score == "kl" else effect).tolist(),
        torch.rand(rows, width, generator=draw).tolist(),
        right=(torch.rand(rows, generator=draw) < 0.7).double().tolist(),
        lengths=lengths.tolist(),
        evidence=torch.randint(0, 5, (rows,), generator=draw),
        score=score,
    )


def plain(batch, score, least=1e-3):
    (measured,) = batch.counterfactual.values()
    attention = batch.attention[LAYER]
    values = []
    for row in range(len(batch)):
        length = int(batch.mask[row].sum())
        if score == "kl":
            effect = [float(measured.kl[row, t]) for t in range(length)]
        else:
            pairs = zip(batch.old_logprobs[row], measured.logprobs[row], strict=True)
            effect = [max(0.0, float(old) - float(other)) for old, other in pairs][:length]
        total = math.fsum(effect)
        faith = 0.0
        if total >= least and attention.evidence_tokens[row] > 0:
            faith = math.fsum(
                c / total * float(attention.share[row, t]) for t, c in enumerate(effect)
            )
        values.append(float(batch.accuracies[row]) * faith)
    return values


@BOTH
def test_it_equals_plain_loops(score):
    for seed in range(4):
        batch = random_batch(seed, score)
        found = term(score=score).observed(batch)
        assert found.dtype == torch.float64
        assert found.tolist() == pytest.approx(plain(batch, score), abs=1e-6)
        assert ((found >= 0) & (found <= 1)).all()
        assert (found > 0).sum() > 10


@BOTH
def test_wrong_answers_earn_nothing(score):
    batch = random_batch(7, score)
    batch.accuracies.zero_()
    assert (term(score=score).observed(batch) == 0).all()


@BOTH
def test_too_little_dependence_earns_nothing(score):
    share = [[1.0, 1.0]] * 3
    batch = made([[0.0, 0.0], [3e-4, 3e-4], [6e-4, 6e-4]], share, score=score)
    found = term(score=score).observed(batch).tolist()
    assert found == [0.0, 0.0, pytest.approx(1.0, abs=1e-6)]
    assert float(term(score=score, least=1e-2).observed(batch).sum()) == 0


@BOTH
def test_without_an_image_or_a_box_and_without_a_token_it_is_neutral(score):
    batch = made([[1.0]] * 3, [[1.0]] * 3, evidence=[0, 2, 2], lengths=[1, 0, 1], score=score)
    assert term(score=score).observed(batch).tolist() == pytest.approx([0, 0, 1])


@BOTH
def test_what_is_in_the_padding_does_not_matter(score):
    batch = made([[1.0, 9.0]], [[0.25, 1.0]], lengths=[1], score=score)
    assert float(term(score=score).observed(batch)) == pytest.approx(0.25)


def test_attention_counts_where_the_token_depends_on_the_evidence():
    effect = [[2.0, 0.0, 0.0]]
    looks, elsewhere = [[1.0, 0.0, 0.0]], [[0.0, 1.0, 1.0]]
    assert float(term().observed(made(effect, looks))) == pytest.approx(1)
    assert float(term().observed(made(effect, elsewhere))) == 0


def test_a_token_that_is_likelier_without_the_evidence_counts_as_independent():
    assert float(term().observed(made([[1.0, -5.0]], [[0.5, 1.0]]))) == pytest.approx(0.5)


def test_it_asks_for_what_its_score_is_made_of():
    assert "counterfactual_kl" in term(score="kl").required()
    assert {"old_logprobs", "counterfactual_logprobs"} <= set(term().required())
    for score in ("logprob", "kl"):
        assert {"attention", "boxes"} <= set(term(score=score).required())


def test_what_was_not_measured_is_an_error():
    batch = made([[1.0]], [[1.0]])
    with pytest.raises(ValueError, match="effect"):
        term().observed(replace(batch, old_logprobs=None))
    with pytest.raises(ValueError, match="effect"):
        term(score="kl").observed(batch)
