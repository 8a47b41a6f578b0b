"""The held-out evaluation: what it samples, records and averages."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vexp.engine.base import Engine, Generated
from vexp.errors import ConfigError
from vexp.evaluator.base import Sample
from vexp.evaluator.heldout import Heldout, mean
from vexp.spec.identity import evaluation_key
from vexp.spec.resolve import resolve


class Prompts:
    """What the stand-in policy encodes: the items themselves."""

    def __init__(self, items):
        self.items = items

    def to(self, device):
        return self


class Reader:
    """A policy that reads answers off the items: right at every index that `right` accepts."""

    device = torch.device("cpu")
    emits: ClassVar[dict[str, int]] = {}
    opening: ClassVar[str] = ""

    def __init__(self, right):
        self.right = right
        self.texts = {}

    def encode(self, items, prompt):
        return Prompts(items)

    def decode(self, tokens, mask):
        return [self.texts[int(row[0])] for row in tokens]


@dataclass(frozen=True, kw_only=True)
class Dictation(Engine):
    """Makes the reader say the gold answer, or something else; remembers how it was asked."""

    name = "dictation"

    def generate(self, policy, prompts, item_ids, sampling):
        assert sampling.greedy
        assert sampling.group_size == 1
        lengths = []
        for item in prompts.items:
            index = int(item.id.rpartition("/")[2])
            answer = item.answer if policy.right(index) else "wrong"
            policy.texts[len(policy.texts)] = f"<think></think>\\boxed{{{answer}}}"
            lengths.append(1 + index % sampling.max_response_length)
        first = len(policy.texts) - len(lengths)
        mask = torch.arange(sampling.max_response_length) < torch.tensor(lengths)[:, None]
        tokens = torch.arange(first, first + len(lengths))[:, None] * mask.long()
        finished = torch.tensor([n < sampling.max_response_length for n in lengths])
        return Generated(tokens, mask, torch.zeros(mask.shape), finished)


@pytest.fixture(scope="module")
def run():
    return replace(resolve(["rollout.max_response_length=20"]), engine=Dictation())


def sample(**fields):
    given_fields = {
        "id": "main/test/0", "question": "q", "answer": "a", "response": "r", "extracted": "a",
        "correct": 1.0, "tag": "single", "status": "ok", "length": 5,
    }  # fmt: skip
    return Sample(**given_fields | fields)


def test_every_question_is_scored_once_in_order(run) -> None:
    evaluator = Heldout(size=25, batch_size=10)
    samples = list(evaluator.samples(Reader(lambda n: n % 2 == 0), run))
    assert [s.id for s in samples] == [f"main/test/{n:06d}" for n in range(25)]
    assert [s.correct for s in samples] == [float(n % 2 == 0) for n in range(25)]
    dataset = run.mix.datasets["main"]
    for index, found in enumerate(samples):
        item = dataset.item("test", index)
        assert (found.question, found.answer, found.tag) == (item.question, item.answer, item.tag)
        assert found.length == 1 + index % 20
        assert found.truncated == (found.length == 20)
        assert found.well_formed
        assert found.status == "ok"
        assert found.dataset == "main"


@pytest.mark.parametrize("start", [0, 3, 10, 24, 25])
def test_an_interrupted_evaluation_goes_on_where_it_was(run, start: int) -> None:
    evaluator = Heldout(size=25, batch_size=10)
    whole = list(evaluator.samples(Reader(lambda n: True), run))
    assert list(evaluator.samples(Reader(lambda n: True), run, start)) == whole[start:]


def test_the_batch_size_changes_nothing(run) -> None:
    one, two = Heldout(size=12, batch_size=5), Heldout(size=12, batch_size=12)
    reader = lambda: Reader(lambda n: n % 3 == 0)  # noqa: E731
    assert list(one.samples(reader(), run)) == list(two.samples(reader(), run))
    assert one.protocol(run) == two.protocol(run)


def test_several_datasets_are_scored_and_reported_apart() -> None:
    run = resolve(["+mix.datasets.other=digits_vqa", "mix.datasets.other.seed=1"])
    run = replace(run, engine=Dictation())
    samples = list(Heldout(size=8).samples(Reader(lambda n: n < 4), run))
    assert [s.dataset for s in samples] == ["main"] * 8 + ["other"] * 8
    assert len({s.id for s in samples}) == 16
    metrics = Heldout(size=8).metrics(samples)
    assert metrics["accuracy"] == pytest.approx({"value": 0.5, "stderr": 0.5 / 15**0.5, "n": 16})
    assert metrics["main/accuracy"]["n"] == metrics["other/accuracy"]["n"] == 8


def test_metrics_by_hand() -> None:
    samples = [
        sample(correct=1.0, tag="single", length=4, well_formed=True),
        sample(correct=0.0, tag="single", length=6, well_formed=True, status="no_answer"),
        sample(correct=1.0, tag="multi", length=8, well_formed=False),
        sample(correct=0.0, tag="", length=10, truncated=True, status="timeout"),
    ]
    metrics = Heldout().metrics(samples)
    assert metrics["accuracy"] == {"value": 0.5, "stderr": math.sqrt(0.25 / 3), "n": 4}
    assert metrics["accuracy/single"] == {"value": 0.5, "stderr": 0.5, "n": 2}
    assert metrics["accuracy/multi"] == {"value": 1.0, "stderr": None, "n": 1}
    assert metrics["format"]["value"] == 0.5
    assert metrics["length"]["value"] == 7.0
    assert metrics["length"]["stderr"] == pytest.approx(math.sqrt((9 + 1 + 1 + 9) / 3 / 4))
    assert metrics["truncated"]["value"] == 0.25
    assert metrics["unjudged"]["value"] == 0.25
    assert set(metrics) == {
        "accuracy", "accuracy/single", "accuracy/multi", "format", "length", "truncated", "unjudged"
    }  # fmt: skip
    json.dumps(metrics, allow_nan=False)
    assert Heldout().metrics([]) == {}


@pytest.mark.parametrize("status", ["bad_gold", "unreadable", "timeout", "crashed"])
def test_a_verdict_that_was_not_reached_is_counted(status: str) -> None:
    samples = [sample(correct=0.0, status=status), sample(correct=0.0, status="no_answer")]
    assert Heldout().metrics(samples)["unjudged"]["value"] == 0.5


@given(st.lists(st.booleans(), min_size=2, max_size=200))
def test_the_standard_error_of_a_share(values: list[bool]) -> None:
    n, p = len(values), sum(values) / len(values)
    found = mean([float(value) for value in values])
    assert found["value"] == pytest.approx(p)
    assert found["stderr"] == pytest.approx(math.sqrt(p * (1 - p) / (n - 1)), abs=1e-12)


def key(evaluator, run) -> str:
    protocol = json.loads(json.dumps(evaluator.protocol(run)))
    return evaluation_key("checkpoint", "heldout", protocol, evaluator.version)


@pytest.mark.parametrize(
    "override",
    [
        "verifier=numeric",
        "prompt.instruction=Think.",
        "mix.datasets.main.seed=3",
        "rollout.max_response_length=30",
        "compute.precision=bf16",
    ],
)
def test_what_can_change_a_score_changes_the_key(override: str) -> None:
    assert key(Heldout(), resolve([])) != key(Heldout(), resolve([override]))


@pytest.mark.parametrize(
    "override", ["seed=5", "rl.steps=3", "reward.terms.format=null", "compute.micro_batch_size=2"]
)
def test_what_cannot_change_a_score_does_not(override: str) -> None:
    assert key(Heldout(), resolve([])) == key(Heldout(), resolve([override]))


def test_split_and_size_change_the_key() -> None:
    run = resolve([])
    keys = {key(e, run) for e in (Heldout(), Heldout(split="dev"), Heldout(size=10))}
    assert len(keys) == 3
    assert key(Heldout(size=10**6), run) == key(Heldout(), run)  # no more than there are
    assert Heldout(size=7).protocol(run)["size"] == 7


def test_a_run_without_data_cannot_be_evaluated() -> None:
    with pytest.raises(ConfigError, match="no dataset to evaluate on"):
        resolve(["stages=[]", "mix.datasets.main=null"])


def test_the_real_policy_and_engine() -> None:
    run = resolve(["rollout.max_response_length=6"])
    policy = run.backbone.load()
    evaluator = Heldout(size=5, batch_size=2)
    samples = list(evaluator.samples(policy, run))
    assert len(samples) == 5
    assert all(1 <= s.length <= 6 for s in samples)
    assert list(evaluator.samples(policy, run, 3)) == samples[3:]


def test_its_own_datasets_are_asked_in_place_of_the_mix():
    """Rows that train on different questions are asked the same ones, under one protocol."""
    own = ["+evaluator.heldout.datasets.main=digits_vqa", "evaluator.heldout.size=4"]
    runs = [resolve([*own, f"mix.datasets.main.single_share={share}"]) for share in (0, 1)]
    first, second = (dict(run.evaluator["heldout"].protocol(run)) for run in runs)
    assert first == second
    assert first["datasets"]["main"]["dataset"]["single_share"] == 0.5
    without = resolve(["mix.datasets.main.single_share=1", "evaluator.heldout.size=4"])
    assert without.evaluator["heldout"].protocol(without) != first
