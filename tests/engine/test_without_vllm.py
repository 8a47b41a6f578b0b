"""What is said of `engine=vllm` where it cannot work; none of this needs vLLM."""

from __future__ import annotations

import importlib.util

import pytest

from tests.train.fakes import SMALLEST
from vexp.config.compose import resolve
from vexp.config.identity import training_id
from vexp.doctor.lacking import findings
from vexp.engine.vllm import VLLM
from vexp.errors import ConfigError
from vexp.train import parallel
from vexp.train.stages import train


@pytest.fixture
def absent(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "vllm" else found(name, *a)
    )


def test_a_run_without_vllm_ends_before_it_trains(absent):
    """The workspace is None: nothing of it may be touched before the engine is asked."""

    class Empty:
        checkpoint_dirs = ()
        note = print

    run = resolve([*SMALLEST, "engine=vllm"])
    with pytest.raises(ConfigError, match="not installed") as caught:
        train(run, Empty())
    assert "engine=hf" in str(caught.value)


def test_several_processes_are_refused(absent, monkeypatch):
    with pytest.raises(ConfigError, match="one process per run") as caught:
        resolve([*SMALLEST, "engine=vllm", "compute.processes=2"])
    assert "engine.separate=true" in str(caught.value)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(parallel, "world", lambda: 2)
    with pytest.raises(ConfigError, match="one process per run"):
        VLLM().check()
    VLLM(separate=True).check()
    run = resolve([*SMALLEST, "engine=vllm", "engine.separate=true", "compute.processes=2"])
    assert run.engine.works_ahead and not resolve([*SMALLEST]).engine.works_ahead


def test_a_response_has_to_leave_room_for_its_prompt():
    with pytest.raises(ConfigError, match="leaves no room for a prompt"):
        resolve(
            [*SMALLEST, "engine=vllm", "engine.max_length=24", "rollout.max_response_length=24"]
        )


def test_a_family_that_is_not_served_is_refused_at_composition():
    with pytest.raises(ConfigError, match="does not serve models of the family 'mllama'") as caught:
        resolve(["backbone=tiny_mllama", "engine=vllm"])
    assert "qwen2_5_vl" in str(caught.value)


def test_the_doctor_says_why_an_engine_does_not_work(absent):
    found = [one for one in findings(resolve([*SMALLEST, "engine=vllm"])) if one.name == "engine"]
    assert [one.state for one in found] == ["missing"]
    assert "not installed" in found[0].detail
    assert not [one for one in findings(resolve([*SMALLEST])) if one.name == "engine"]


def test_memory_and_lengths_do_not_change_the_id_but_the_engine_does():
    base = training_id(resolve([*SMALLEST, "engine=vllm"]))
    more = ["engine.cache_gb=7", "engine.max_length=999", "engine.max_sequences=3"]
    more += ["engine.separate=true", "engine.patience_s=9"]
    assert training_id(resolve([*SMALLEST, "engine=vllm", *more])) == base
    assert training_id(resolve([*SMALLEST])).hash != base.hash
