"""`engine.sleep`: in what order vLLM is told to give memory back and to take it. No vLLM needed."""

from __future__ import annotations

import tempfile
from types import SimpleNamespace

import pytest
import torch

from tests.tiny import policy
from tests.train.fakes import SMALLEST, coin_run
from vexp.engine import _vllm
from vexp.engine._vllm_server import ModelSpec, Server
from vexp.engine.hf import HF
from vexp.engine.vllm import VLLM
from vexp.errors import ConfigError
from vexp.spec.resolve import resolve
from vexp.train.checkpoint import State
from vexp.train.learner import Learner, make_learner
from vexp.train.step import train_step
from vexp.train.timing import Clock

WEIGHTS = {"a": torch.zeros(2)}
RESET = ["reset_prefix_cache", "reset_mm_cache", "reset_encoder_cache"]


class Recording:
    """In vLLM's place: it takes what it is told, and keeps the order."""

    def __init__(self, in_use: bool = False) -> None:
        self.told: list[str] = []
        self.llm_engine = SimpleNamespace(
            reset_encoder_cache=lambda: self.told.append("reset_encoder_cache")
        )
        self._in_use = in_use

    def sleep(self, level):
        self.told.append(f"sleep {level}")

    def wake_up(self, tags):
        self.told.append(f"wake {' '.join(tags)}")

    def collective_rpc(self, method, kwargs):
        self.told.append(method)
        assert dict(kwargs["weights_iterator"]) == WEIGHTS

    def reset_prefix_cache(self):
        self.told.append("reset_prefix_cache")
        return not self._in_use

    def reset_mm_cache(self):
        self.told.append("reset_mm_cache")


def server(in_use: bool = False, **fields) -> tuple[Server, list[str]]:
    llm = Recording(in_use)
    return Server(ModelSpec.of(VLLM(**fields), policy()), llm), llm.told


def test_weights_come_before_the_cache_when_it_wakes():
    found, told = server(sleep=True)
    found.load(WEIGHTS.items())
    assert told == ["reload_weights", *RESET]
    found.release_memory()
    found.release_memory()
    assert told[4:] == ["sleep 2"]
    found.load(WEIGHTS.items())
    assert told[5:] == ["wake weights", "reload_weights", "wake kv_cache", *RESET]
    found.load(WEIGHTS.items())
    assert told[11:] == ["reload_weights", *RESET]


def test_where_it_is_not_asked_for_nothing_is_told():
    found, told = server()
    found.release_memory()
    assert told == []


def test_keys_of_former_weights_that_cannot_be_let_go_of_are_no_answer_to_anything():
    found, _ = server(in_use=True)
    with pytest.raises(RuntimeError, match="former weights"):
        found.load(WEIGHTS.items())


class _Live(_vllm._Connection):
    """A vLLM that records which weights it gets, and when it rests."""

    def __init__(self):
        super().__init__("", tempfile.TemporaryDirectory())
        self.told: list[str] = []

    def load(self, weights):
        self.told.append("load")

    def answer(self, asked):
        raise AssertionError

    def prefetch(self, asked):
        raise AssertionError

    def _rest(self):
        self.told.append("rest")

    def stop(self):
        self.told.append("stop")


def test_after_a_rest_it_gets_the_weights_even_if_they_are_the_same(monkeypatch):
    """A second evaluation of one policy, say: what it had is gone."""
    live, same = _Live(), policy()
    monkeypatch.setattr(_vllm, "_live", live)
    live.sync(same)
    live.sync(same)
    VLLM(sleep=True).release_memory()
    live.sync(same)
    VLLM().release_memory()
    live.sync(same)
    assert live.told == ["load", "rest", "load"]


def test_a_step_lets_it_rest_once_it_has_all_its_responses(monkeypatch):
    told, generate, update = [], HF.generate, Learner.update
    monkeypatch.setattr(
        HF, "generate", lambda self, *a: told.append("generate") or generate(self, *a)
    )
    monkeypatch.setattr(HF, "release_memory", lambda self: told.append("rest"))
    monkeypatch.setattr(
        Learner, "update", lambda self, *a, **k: told.append("update") or update(self, *a, **k)
    )
    many = ["group_filter=dynamic_sampling", "group_filter.max_batches=3", "rollout.group_size=2"]
    run = coin_run("stages=[rl]", *many)
    learner, state = make_learner(run, None, None, "cpu"), State()
    for _ in range(2):
        told.clear()
        state = train_step(learner, state, Clock())
        before = told.index("rest")
        assert told == ["generate"] * before + ["rest", "update"]
        assert before > 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["compute.device=cpu"], "on GPUs only: compute.device=cpu"),
        (["rl.staleness=1"], "generates while the policy is updated"),
    ],
)
def test_what_it_cannot_be_had_with_is_said_at_composition(more, said):
    with pytest.raises(ConfigError, match=said):
        resolve([*SMALLEST, "engine=vllm", "engine.sleep=true", *more])


def test_without_a_gpu_it_is_refused_before_anything_trains(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    VLLM().check()
    with pytest.raises(ConfigError, match="torch sees no GPU"):
        VLLM(sleep=True).check()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    VLLM(sleep=True).check()
