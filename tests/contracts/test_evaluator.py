"""What every registered evaluator promises."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexp.config.schema import field_types
from vexp.config.types import UNHASHED
from vexp.evaluator.base import Sample
from vexp.registry import REGISTRY
from vexp.spec.resolve import resolve
from vexp.verifier.base import Status


def component(kind, name):
    return REGISTRY.get(kind, name)()


# Another value of every field, by evaluator: a new one says here how each of its fields changes.
COMMON = {
    "split": "dev",
    "size": 10,
    "max_response_length": 7,
    "batch_size": 7,
    "datasets": {"main": REGISTRY.get("dataset", "digits_vqa")(seed=7)},
}
OTHER = {
    "credit": COMMON
    | {
        "credit": component("credit", "vgpo"),
        "group_size": 3,
        "batch_size": 7,
        "keep": 3,
        "gallery": 3,
        "layer": component("layer", "middle"),
    },
    "avg_at_k": COMMON | {"k": 3, "temperature": 0.7, "top_p": 0.9, "seed": 5},
    "heldout": COMMON,
    "lmms_eval": {
        "benchmark": "pope",
        "task": "gqa",
        "tasks_dir": "nowhere",  # what lies there counts, not where
        "data": "nowhere",
        "prompt": "task",
        "unwrap": "thoughts",
        "limit": 10,
        "max_response_length": 7,
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 5,
        "k": 3,
        "batch_size": 7,
        "python": "python3",
        "offline": False,
    },
    "diagnostics": COMMON
    | {
        "layer": component("layer", "middle"),
        "visual_layer": component("layer", "early"),
        "distortion": component("distortion", "black"),
        "target": component("target", "hard_box"),
        "kappa": 2.0,
        "bins": 4,
        "points": 10,
        "gallery": 3,
    },
}
# Metrics by what they are, as patterns; all others are shares in [0, 1].
SIGNED = (
    "entropy/gap",
    "focus_correlation",
    "attention_ratio",
    "attention_kl/spearman",
    "weight/*",
)
UNBOUNDED = ("length", "weight/*", "attention_kl*", "late_early*", "entropy/*")
# Values that evaluators record of a sample, each of which may be missing; all are averaged.
RECORDED = {
    "credit": dict.fromkeys(
        ("weight/digit", "weight/color_place", "weight/connective"), st.floats(-9, 9)
    ),
    "diagnostics": {
        **dict.fromkeys(
            ("evidence_mass", "evidence_area", "pointing", "coverage", "coverage_2", "tas",
             "attention/image", "attention/query", "attention/response", "grounded_share",
             "grounded_share/high_entropy", "high_entropy_share/grounded",
             "attention/image/at_1", "grounded_score/ecdf_0.2"),
            st.floats(0, 1),
        ),
        **dict.fromkeys(
            ("attention_kl", "late_early", "entropy/grounded", "entropy/other"), st.floats(0, 50)
        ),
        "entropy/gap": st.floats(-9, 9),
        "focus_correlation": st.floats(-1, 1),
        "attention_ratio": st.floats(-1, 1),
        "focused_late": st.integers(0, 9).map(float),
        "focused_early": st.integers(0, 9).map(float),
    },
}  # fmt: skip
# n: questions, or answers to each, or samples with a verdict of their own
CLUSTERED = {"avg_at_k": {"accuracy", "pass", "run_std"}, "lmms_eval": {"accuracy"}}
PARTIAL = {name for values in RECORDED.values() for name in values} | {"late_early_focus"}
SAMPLES = st.lists(
    st.builds(
        Sample,
        id=st.just("main/test/0"),
        question=st.just("q"),
        answer=st.just("1"),
        response=st.just("r"),
        extracted=st.none() | st.just("1"),
        correct=st.sampled_from((0.0, 1.0)),
        tag=st.sampled_from(("", "single", "multi")),
        status=st.sampled_from(get_args(Status)),
        length=st.integers(0, 1000),
        dataset=st.sampled_from(("main", "other")),
        well_formed=st.booleans(),
        truncated=st.booleans(),
        values=st.fixed_dictionaries(
            {}, optional={k: v for values in RECORDED.values() for k, v in values.items()}
        ),
    ),
    max_size=30,
)


@pytest.fixture(scope="module", params=REGISTRY.names("evaluator"))
def evaluator(request):
    return REGISTRY.get("evaluator", request.param)()


@pytest.fixture(scope="module")
def run():
    return resolve([])


def test_the_protocol_is_plain_and_does_not_change_by_itself(evaluator, run):
    text = json.dumps(evaluator.protocol(run), allow_nan=False)
    assert json.loads(text) == evaluator.protocol(run)
    assert json.dumps(replace(evaluator).protocol(run), allow_nan=False) == text


def test_a_field_that_can_change_a_score_changes_the_protocol(evaluator, run):
    hints = field_types(type(evaluator))
    assert OTHER[evaluator.name].keys() == hints.keys()
    for field, value in OTHER[evaluator.name].items():
        changed = replace(evaluator, **{field: value}).protocol(run) != evaluator.protocol(run)
        decides = UNHASHED not in getattr(hints[field], "__metadata__", ())
        assert changed == decides, field


@given(samples=SAMPLES)
def test_shares_are_fractions_and_everything_is_plain(evaluator, samples):
    metrics = evaluator.metrics(samples)
    json.dumps(metrics, allow_nan=False)
    for name, found in metrics.items():
        assert found["value"] >= 0 or matches(name, SIGNED), name
        assert found["value"] <= 1 or matches(name, UNBOUNDED), name


@given(samples=SAMPLES)
def test_n_counts_the_samples(evaluator, samples):
    metrics = evaluator.metrics(samples)
    assert bool(metrics) == bool(samples)
    for name, found in metrics.items():
        whole = "/" not in name and name not in PARTIAL | CLUSTERED.get(evaluator.name, set())
        assert found["n"] == len(samples) if whole else 1 <= found["n"] <= len(samples), name


@given(samples=SAMPLES)
def test_only_a_single_sample_has_no_standard_error(evaluator, samples):
    for name, found in evaluator.metrics(samples).items():
        if found["n"] == 1:
            assert found["stderr"] is None, name
        else:
            assert 0 <= found["stderr"] < math.inf, name


@given(samples=SAMPLES, random=st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(evaluator, samples, random):
    shuffled = random.sample(samples, len(samples))
    assert evaluator.metrics(shuffled) == evaluator.metrics(samples)


@given(samples=SAMPLES)
def test_metrics_have_the_names_that_were_announced(evaluator, samples):
    if evaluator.produces:
        for name in evaluator.metrics(samples):
            assert matches(name, evaluator.produces), name


def matches(name, patterns):
    return any(fnmatchcase(name, pattern) for pattern in patterns)
