"""Ids: what changes them, what does not, and golden ones that must never change by accident."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexp.config.hashing import HASH_LENGTH, IDENTITY_VERSION, digest, written
from vexp.spec.identity import evaluation_key, stage_key, training_id
from vexp.spec.resolve import resolve

GOLDEN = Path(__file__).with_name("golden_ids.json")
# every value that the shipped scale may change is set, so that tuning it changes no golden id
FIXED = [
    "warm_start.steps=10", "warm_start.batch_size=8", "warm_start.learning_rate=1e-3",
    "warm_start.ramp_steps=2", "warm_start.beta2=0.99", "rl.steps=5", "rl.prompts_per_step=4",
    "rl.learning_rate=1e-4", "rl.ramp_steps=1", "rl.schedule=constant", "rl.beta2=0.999",
    "rollout.group_size=4",
    "rollout.max_response_length=16", "mix.datasets.main.narrate=all",
]  # fmt: skip


def identity(*overrides):
    return training_id(resolve([*FIXED, *overrides])).hash


@pytest.mark.parametrize("name", json.loads(GOLDEN.read_text()))
def test_golden_ids(name):
    overrides = name.split(" ")[1:]
    assert (
        training_id(resolve([*FIXED, *overrides])).name == json.loads(GOLDEN.read_text())[name]
    ), "an id changed: if that is meant, say so in the changelog"


def test_changed_maths_under_equal_settings_is_another_run():
    """VGPO's released inter credit without intra once summed other weights."""
    released = ("credit=vgpo", "credit.compat=released")
    found = training_id(resolve([*FIXED, *released, "credit.intra=false"])).inputs["credit"]
    assert found["content"] == {"maths": 2}
    for other in ((), ("credit.intra=false", "credit.inter=false"), ("credit.inter=false",)):
        assert "content" not in training_id(resolve([*released, *other])).inputs["credit"]


def test_other_verdicts_are_other_runs_and_other_scores(registry, monkeypatch):
    before = resolve(FIXED)
    ids = identity(), evaluated(before)
    monkeypatch.setattr(type(before.verifier), "version", before.verifier.version + 1)
    assert all(old != new for old, new in zip(ids, (identity(), evaluated(before)), strict=True))


def evaluated(run):
    return json.dumps(run.evaluator["heldout"].protocol(run), sort_keys=True)


@pytest.mark.parametrize(
    "override",
    [
        "compute.device=cpu",
        "compute.threads=3",
        "compute.micro_batch_size=2",
        "tracker.t=tensorboard",
        "launcher.workers=7",
        "results_dir=elsewhere",
        "checkpoint.every=3",
        "~evaluator.heldout",
        "evaluator.heldout.size=5",
    ],
)
def test_what_cannot_change_the_weights_does_not_change_the_id(override):
    assert identity(override) == identity()


@pytest.mark.parametrize(
    "override",
    [
        "seed=2",
        "rl.learning_rate=2e-4",
        "algorithm=dapo",
        "compute.precision=bf16",
        "compute.attention=eager",
        "backbone.init_seed=5",
        "prompt.instruction=Think.",
        "mix.datasets.main.colors=5",
        "reward.terms.format=null",
        "rollout.temperature=0.9",
        "warm_start.seed=3",
        "stages=[rl]",
    ],
)
def test_what_can_change_the_weights_changes_the_id(override):
    assert identity(override) != identity()


def test_one_and_one_point_zero_are_one_id_in_a_float_field():
    assert identity("rollout.temperature=1") == identity("rollout.temperature=1.0")


def test_a_stage_does_not_read_what_comes_after_it():
    def key(*overrides):
        return stage_key(resolve([*FIXED, *overrides]), "warm_start")

    assert key("seed=9", "algorithm=gspo", "rl.steps=1") == key()
    assert key("warm_start.steps=11") != key()
    assert identity("stages=[warm_start]", "seed=9") == identity("stages=[warm_start]", "seed=1")


def test_plugin_code_is_part_of_the_id(tmp_path, registry):
    plugin = tmp_path / "half.py"
    text = """
from dataclasses import dataclass
from vexp.credit.uniform import Uniform
from vexp.registry import register

@register("credit", "half")
@dataclass(frozen=True, kw_only=True)
class Half(Uniform):
    \"\"\"Half.\"\"\"
"""
    plugin.write_text(text)
    first = identity(f"plugins=['{plugin}']", "credit=half")
    registry._plugins.clear()
    registry._classes.pop(("credit", "half"))
    plugin.write_text(text + "\nCHANGED = True\n")
    assert identity(f"plugins=['{plugin}']", "credit=half") != first


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
FORMS = st.recursive(
    LEAVES.filter(lambda x: x not in (float("inf"), float("-inf"))),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(), below, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text().filter(lambda key: key != "identity"), FORMS, max_size=5))
def test_the_digest_is_that_of_the_whole_text(inputs):
    text = json.dumps({"identity": IDENTITY_VERSION, **inputs}, sort_keys=True)
    assert digest(inputs) == hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]


def test_an_evaluation_s_key_does_not_depend_on_who_wrote_the_protocol():
    protocol = {"size": 3, "datasets": {"b": 1.0, "a": [None, True]}}
    plain = digest({"checkpoint": "c", "name": "n", "protocol": protocol, "scorer": 2})
    assert evaluation_key("c", "n", protocol, 2) == plain
    assert evaluation_key("c", "n", protocol, 2, written(protocol)) == plain
