"""Tensor parallelism: two processes with half of the weights each say what one says, and `hf`."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import psutil
import pytest
import torch

from tests.tiny import ragged_items
from tests.vllm.test_vllm_apart import APART, SAMPLING, ask
from tests.vllm.test_vllm_engine import alike, ends_early, fresh
from vexp.engine import _vllm
from vexp.engine._vllm_server import ModelSpec, arguments
from vexp.engine.base import Sampling
from vexp.engine.hf import HF
from vexp.engine.vllm import VLLM
from vexp.errors import ConfigError

TWO = VLLM(max_length=512, cache_gb=0.2, separate=True, tensor_parallel=2)
GREEDY = Sampling(group_size=1, max_response_length=24, greedy=True, ignore_eos=True)


@pytest.fixture(scope="module")
def asked():
    """A policy before and after an update, and what `hf` and one process say of both."""
    before, after = ends_early(fresh()), ends_early(fresh())
    with torch.no_grad():
        for number, parameter in enumerate(after.model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.mul_(1 + 0.1 * noise)
    questions = [(policy, how) for policy in (before, after) for how in (GREEDY, SAMPLING)]
    return [(*one, ask(*one, engine=HF()), ask(*one, engine=APART)) for one in questions]


def workers() -> list[psutil.Process]:
    """vLLM's own processes, each of which has a part of the weights."""
    children = psutil.Process(_vllm._live.process.pid).children(recursive=True)
    return [child for child in children if "Worker_TP" in "".join(child.cmdline())]


def test_two_say_what_one_says_and_hf_before_and_after_an_update(asked):
    for policy, how, hf, one in asked:
        two = ask(policy, how, TWO)
        alike(one, two)
        alike(hf, two)
    assert len(workers()) == 2
    assert not torch.equal(asked[0][2].tokens, asked[2][2].tokens)


def test_of_two_none_outlives_the_engine(asked):
    policy = asked[0][0]
    ask(policy, engine=TWO)
    process, found = psutil.Process(_vllm._live.process.pid), workers()
    process.kill()
    _, alive = psutil.wait_procs(found, 30)
    assert len(found) == 2 and not alive


def test_one_of_two_that_is_killed_is_a_breakdown_that_costs_no_step(asked):
    policy = asked[0][0]
    ask(policy, engine=TWO)
    os.kill(workers()[1].pid, signal.SIGKILL)
    alike(ask(policy, engine=TWO), asked[1][2])
    _vllm.close()


def test_heads_that_cannot_be_shared_are_named():
    three = VLLM(max_length=512, cache_gb=0.2, separate=True, tensor_parallel=3)
    with pytest.raises(ConfigError, match="cannot be shared by 3") as caught:
        ask(fresh(), engine=three, items=ragged_items()[:1])
    assert "engine.tensor_parallel" in str(caught.value)
    assert _vllm._live is None


def test_vllm_starts_on_a_gpu_that_the_trainer_has_most_of(tmp_path):
    """vLLM's own check of what is free, with what it is told and a GPU of 80 GiB."""
    from vllm.v1.worker.utils import request_memory

    given = arguments(ModelSpec.of(APART, fresh()), tmp_path)
    gpu = SimpleNamespace(total_memory=80 << 30, free_memory=6 << 30, device_="cuda:0")
    share = SimpleNamespace(gpu_memory_utilization=given["gpu_memory_utilization"])
    assert request_memory(gpu, share) <= 1 << 30
    assert given["kv_cache_memory_bytes"] == int(0.2 * (1 << 30))
