"""Credit by kinds of words: the weights are those of training, and uniform credit has weight 1."""

from __future__ import annotations

import functools
import json
import math
import statistics
from dataclasses import replace

import pytest
import torch

from tests.train.fakes import SMALLEST, Coin
from vexp.errors import ConfigError
from vexp.evaluator.base import Sample
from vexp.evaluator.credit import Credit
from vexp.experience.build import answers
from vexp.registry import REGISTRY
from vexp.response.token_classes import kinds
from vexp.runs.execute import execute
from vexp.runs.store import RunStore
from vexp.runs.workspace import SilentReporter
from vexp.spec.resolve import resolve
from vexp.train.batch import needs
from vexp.train.learner import Learner
from vexp.train.step import with_advantages

RUN = (*SMALLEST, "rollout.max_response_length=9")
METHODS = ("uniform", "entropy", "vicra", "vgpo", "vppo")
PREDICTOR = "rl.row_alignment=predictor"


def made(*overrides):
    return replace(resolve([*RUN, *overrides]), verifier=Coin())


@functools.cache
def policy():
    """A policy that answers in words, and whose answers depend on the image."""
    owner = made().backbone.load()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in owner.model.named_parameters():
            if "visual" not in name and weight.ndim == 2:
                weight.copy_(0.08 * torch.randn(weight.shape, generator=generator))
    return owner


def evaluator(method=None, **fields):
    chosen = REGISTRY.get("credit", method)() if method else None
    return Credit(
        **{"size": 6, "group_size": 4, "batch_size": 3, "keep": 6, "credit": chosen} | fields
    )


@functools.cache
def measured(method):
    return tuple(evaluator(method).samples(policy(), made()))


@pytest.mark.parametrize("method", METHODS)
def test_the_weights_are_those_of_training(method):
    run = made(f"credit={method}", "seed=0")
    owner, batch = policy(), evaluator(method)
    items = [run.mix.datasets["main"].item("test", index) for index in range(3)]
    ids = [f"main/{item.id}" for item in items]
    prompts, generated = batch._generated(owner, run, items, ids)
    rewards = [0.9 * s.correct + 0.1 * s.well_formed for s in measured(method)[:12]]
    found = answers(run, owner, items, prompts, generated, rewards)
    assert "reference_logprobs" not in needs(run) or run.algorithm.kl_coef
    reference = owner if "reference_logprobs" in needs(run) else None
    learner = Learner(run, owner, reference, None, None)
    seen = with_advantages(learner, found, 0)
    some = 0
    for row, sample in enumerate(measured(method)[:12]):
        outcome = float(seen.outcome[row])
        given = [weight for _, weight in sample.tokens]
        assert len(given) == sample.length
        if outcome:
            some += 1
            expected = seen.advantages[row, : sample.length].double() / outcome
            assert given == pytest.approx(expected.tolist(), abs=1e-5)
    assert some > 2


def test_the_first_response_of_a_question_can_be_drawn():
    samples = measured("vicra")
    assert [bool(sample.gallery) for sample in samples] == [True, False, False, False] * 6
    for sample in samples[::4]:
        gallery = sample.gallery
        assert gallery["tokens"] == [text for text, _ in sample.tokens]
        weights = [weight for _, weight in sample.tokens]
        assert gallery["values"]["credit"] == pytest.approx(weights, abs=1e-4)
        assert gallery["image"].startswith("data:image/png;base64,")
    fewer = evaluator("vicra", gallery=1)
    again = tuple(fewer.samples(policy(), made()))
    assert [bool(sample.gallery) for sample in again[:8]] == [True] + [False] * 7
    assert [replace(s, gallery={}) for s in samples] == [replace(s, gallery={}) for s in again]


def test_uniform_credit_is_exactly_1_for_every_word():
    for sample in measured("uniform"):
        assert {weight for _, weight in sample.tokens} == {1.0}
        assert set(sample.values.values()) <= {1.0}
    words = {"weight/digit": 1.0, "weight/connective": 1.0}
    samples = [replace(sample, values=words) for sample in measured("uniform")]
    found = evaluator().metrics(samples)["weight/digit_over_connective"]
    assert found == {"value": 1.0, "stderr": 0.0, "n": 24}


def test_vicras_weights_add_up_to_the_length_of_the_response():
    spread = 0.0
    for sample in measured("vicra"):
        weights = [weight for _, weight in sample.tokens]
        assert math.fsum(weights) == pytest.approx(sample.length, abs=1e-6)
        spread = max(spread, max(weights) - min(weights))
    assert spread > 1e-3


def test_values_are_means_over_the_tokens_of_a_kind():
    counted = 0
    for sample in measured("vgpo"):
        pieces = [text for text, _ in sample.tokens]
        for kind in ("digit", "color_place", "connective"):
            own = [
                weight
                for (_, weight), k in zip(sample.tokens, kinds(pieces), strict=True)
                if k == kind
            ]
            expected = pytest.approx(statistics.fmean(own)) if own else None
            assert sample.values.get(f"weight/{kind}") == expected
            counted += bool(own)
    assert counted > 10


def test_without_a_method_it_is_the_runs_own():
    run = made("credit=vicra")
    own = tuple(evaluator().samples(policy(), run))
    assert [s.tokens for s in own] == [s.tokens for s in measured("vicra")]
    assert evaluator().protocol(run)["credit"]["name"] == "vicra"
    assert evaluator().protocol(run) != evaluator().protocol(made())
    assert evaluator("vicra").protocol(run) == evaluator().protocol(run)


@pytest.mark.parametrize("start", [1, 11, 12, 13, 24])
def test_an_interrupted_evaluation_goes_on_where_it_was(start):
    again = tuple(evaluator("vgpo").samples(policy(), made(), start))
    assert again == measured("vgpo")[start:]


def test_only_the_first_questions_keep_their_tokens():
    samples = tuple(evaluator("vicra", keep=2).samples(policy(), made()))
    assert [bool(sample.tokens) for sample in samples] == [True] * 8 + [False] * 16
    assert [s.values for s in samples] == [s.values for s in measured("vicra")]
    assert len({sample.id for sample in samples}) == 24


def sample(number, **values):
    return Sample(
        id=str(number), question="q", answer="a", response="r", extracted="a", correct=1.0,
        tag="single", status="ok", length=5, values={f"weight/{k}": v for k, v in values.items()},
    )  # fmt: skip


def test_metrics_by_hand():
    samples = [
        sample(0, digit=2.0, connective=1.0),
        sample(1, digit=1.0, connective=0.5, color_place=1.5),
        sample(2, digit=9.0),
        sample(3),
    ]
    found = evaluator().metrics(samples)
    assert found["weight/digit"]["value"] == 4.0
    assert found["weight/digit"]["n"] == 3
    assert found["weight/digit_over_connective"] == {"value": 2.0, "stderr": 0.0, "n": 2}
    assert found["weight/color_place_over_connective"] == {"value": 3.0, "stderr": None, "n": 1}
    assert found["accuracy"]["n"] == 4
    sunk = evaluator().metrics([sample(0, digit=2.0, connective=-1.0)])
    assert "weight/digit_over_connective" not in sunk
    assert evaluator().metrics([]) == {}


def test_a_method_that_needs_a_reference_is_refused_at_composition(registry):
    from dataclasses import dataclass

    from vexp.credit.uniform import Uniform

    @dataclass(frozen=True, kw_only=True)
    class Compared(Uniform):
        needs = ("reference_logprobs",)

    registry.add("credit", "compared", Compared)
    with pytest.raises(ConfigError, match="needs a reference policy"):
        resolve([*RUN, "+evaluator.credit={name: credit, credit: compared}"])


def test_a_run_keeps_what_was_measured(tmp_path):
    run = resolve(
        [
            *RUN, "stages=[]", "~evaluator.heldout", "credit=vicra", f"results_dir={tmp_path}",
            "+evaluator.credit={name: credit, size: 2, group_size: 2, keep: 1}",
        ]
    )  # fmt: skip
    result = execute(run, reporter=SilentReporter(), store=RunStore(tmp_path))
    assert result.evaluations["credit"]["metrics"]["accuracy"]["n"] == 4
    path = next(tmp_path.glob("runs/*/evaluations/credit-*/samples.jsonl"))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert ["tokens" in line for line in lines] == [True, True, False, False]
    text = "".join(piece for piece, _ in lines[0]["tokens"]).removesuffix("<|im_end|>")
    assert text == lines[0]["response"]


def test_states_are_those_that_training_reads():
    run = made(PREDICTOR)
    batch = evaluator("vgpo", size=3)
    found = tuple(batch.samples(policy(), run))
    assert [s.tokens for s in found] != [s.tokens for s in measured("vgpo")[:12]]
    assert batch.protocol(run) != batch.protocol(made())
