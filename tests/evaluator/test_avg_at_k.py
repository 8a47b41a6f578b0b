"""avg@k: what is drawn, and what its numbers mean."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pytest

from vexp.errors import ConfigError
from vexp.evaluator.avg_at_k import AvgAtK
from vexp.evaluator.base import Sample
from vexp.evaluator.heldout import Heldout
from vexp.spec.resolve import resolve


def answer(question, place, correct, tag="single"):
    return Sample(
        id=f"main/test/{question}#{place}", question="q", answer="a", response="r",
        extracted="a", correct=float(correct), tag=tag, status="ok", length=5, dataset="main",
    )  # fmt: skip


@pytest.fixture(scope="module")
def run():
    return resolve(["rollout.max_response_length=5"])


@pytest.fixture(scope="module")
def policy(run):
    return run.backbone.load()


def test_metrics_by_hand():
    rights = {0: [1, 1, 0, 0], 1: [1, 0, 0, 0], 2: [0, 0, 0, 0]}
    samples = [
        answer(q, place, right, "multi" if q == 2 else "single")
        for q, each in rights.items()
        for place, right in enumerate(each)
    ]
    found = AvgAtK(k=4).metrics(samples)
    shares = [0.5, 0.25, 0.0]
    assert found["accuracy"]["value"] == pytest.approx(0.25)
    assert found["accuracy"]["stderr"] == pytest.approx(statistics.stdev(shares) / math.sqrt(3))
    assert found["accuracy"]["n"] == 3
    assert found["accuracy/single"]["value"] == pytest.approx(0.375)
    assert found["pass"]["value"] == pytest.approx(2 / 3)
    runs = [2 / 3, 1 / 3, 0, 0]
    assert found["run_std"]["value"] == pytest.approx(statistics.stdev(runs))
    assert found["length"] == {"value": 5.0, "stderr": 0.0, "n": 12}


def test_each_question_is_answered_k_times_and_differently(run, policy):
    samples = list(AvgAtK(size=3, k=4, batch_size=2).samples(policy, run))
    assert [s.id for s in samples] == [f"main/test/{q:06d}#{j}" for q in range(3) for j in range(4)]
    assert len({s.response for s in samples[:4]}) > 1
    assert len({s.question for s in samples[:4]}) == 1


@pytest.mark.parametrize("start", [0, 3, 4, 11, 12])
def test_an_interrupted_evaluation_goes_on_with_the_same_draws(run, policy, start):
    evaluator = AvgAtK(size=3, k=4, batch_size=2)
    whole = list(evaluator.samples(policy, run))
    assert list(evaluator.samples(policy, run, start)) == whole[start:]
    assert list(replace(evaluator, batch_size=3).samples(policy, run)) == whole


def test_another_seed_draws_other_answers(run, policy):
    texts = [
        [s.response for s in AvgAtK(size=3, k=2, seed=seed).samples(policy, run)] for seed in (0, 1)
    ]
    assert texts[0] != texts[1]


def test_at_a_low_temperature_it_is_the_greedy_answer(run, policy):
    greedy = [s.response for s in Heldout(size=3).samples(policy, run)]
    cold = [s.response for s in AvgAtK(size=3, k=2, temperature=1e-6).samples(policy, run)]
    assert cold == [text for text in greedy for _ in range(2)]


def test_a_single_answer_is_refused():
    with pytest.raises(ConfigError, match="out of range"):
        resolve(["+evaluator.a={name:avg_at_k,k:1}"])
