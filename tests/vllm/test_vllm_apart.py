"""vLLM in a process of its own: the same responses, whatever happens to that process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests.tiny import PROMPT, item, ragged_items
from tests.vllm.test_vllm_engine import ENGINE, IDS, alike, ends_early, fresh
from vexp.engine import _vllm
from vexp.engine.base import Sampling
from vexp.engine.hf import HF
from vexp.engine.vllm import VLLM
from vexp.errors import ConfigError, EngineFailed
from vexp.policy import lora
from vexp.policy.options import Lora

APART = VLLM(max_length=512, cache_gb=0.2, separate=True, patience_s=1100.0)
SAMPLING = Sampling(group_size=3, max_response_length=10)


@pytest.fixture(scope="module")
def policy():
    return ends_early(fresh())


def ask(policy, sampling=SAMPLING, engine=APART, items=None):
    batch = policy.encode(items or ragged_items(), PROMPT)
    return engine.generate(policy, batch, IDS[: len(batch)], sampling)


def test_it_answers_as_hf_does_and_gets_new_weights(policy):
    alike(ask(policy, engine=HF()), ask(policy))
    process = _vllm._live.process.pid
    changed = fresh()
    with torch.no_grad():
        for number, parameter in enumerate(changed.model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.mul_(1 + 0.1 * noise)
    alike(ask(changed, engine=HF()), ask(changed))
    lora.attach(changed, Lora(rank=3, alpha=6), seed=5)
    for name, parameter in changed.named_parameters():
        if ".lora_B" in name:
            parameter.data.normal_(0.0, 0.05, generator=torch.Generator().manual_seed(1))
    alike(ask(changed, engine=HF()), ask(changed))
    assert _vllm._live.process.pid == process  # one process for all of it
    assert not list(Path(_vllm._live.home.name).glob("*.safetensors"))  # memory given back


def test_what_it_was_told_to_begin_with_is_what_it_answers(policy):
    expected = ask(policy, engine=HF())
    batch = policy.encode(ragged_items(), PROMPT)
    APART.prefetch(policy, batch, IDS, SAMPLING)
    other = Sampling(group_size=2, max_response_length=4)
    assert len(_vllm._live.begun) == 1
    alike(ask(policy, engine=HF(), sampling=other), ask(policy, other))  # it is let go of
    APART.prefetch(policy, batch, IDS, SAMPLING)
    alike(expected, ask(policy))
    assert _vllm._live.begun == []


def test_killed_in_the_middle_of_a_batch_it_is_started_again_and_says_the_same(policy):
    long = Sampling(group_size=16, max_response_length=200, ignore_eos=True)
    expected = ask(policy, long)
    first = _vllm._live.process.pid
    killer = threading.Timer(0.3, os.kill, (first, signal.SIGKILL))
    killer.start()
    found = ask(policy, long)
    killer.join()
    assert not psutil.pid_exists(first)
    assert _vllm._live.process.pid != first
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.logprobs, expected.logprobs)


def test_killed_between_two_batches_it_is_started_again(policy):
    expected = ask(policy)
    batch = policy.encode(ragged_items(), PROMPT)
    APART.prefetch(policy, batch, IDS, SAMPLING)
    psutil.Process(_vllm._live.process.pid).kill()
    assert torch.equal(ask(policy).tokens, expected.tokens)


def test_one_that_hangs_is_ended_after_a_while_and_the_next_one_works(policy):
    engine = VLLM(max_length=512, cache_gb=0.2, separate=True, patience_s=1000.0)
    expected = ask(policy, engine=engine)
    process = _vllm._live.process
    os.kill(process.pid, signal.SIGSTOP)
    process.patience_s = 2.0
    began = time.monotonic()
    with pytest.raises(EngineFailed, match="no sign of life for 2 s") as caught:
        ask(policy, engine=engine)
    assert time.monotonic() - began < 20
    assert "--switch engine=hf" in str(caught.value) and "last checkpoint" in str(caught.value)
    assert not psutil.pid_exists(process.pid)
    assert torch.equal(ask(policy, engine=engine).tokens, expected.tokens)


def test_what_it_refuses_is_said_as_in_this_process():
    with pytest.raises(ConfigError, match="heads of size 16") as caught:
        ask(fresh(hidden_size=64))
    assert "engine=hf" in str(caught.value)
    assert _vllm._live is None


_LEADER = """
import sys
sys.path.insert(0, {root!r})
from tests.vllm.test_vllm_apart import ask, fresh
from vexp.engine import _vllm
ask(fresh())
print(_vllm._live.process.pid, _vllm._live.home.name, flush=True)
sys.stdin.read()
"""


def test_when_its_leader_is_killed_it_goes_and_leaves_nothing():
    root = str(Path(__file__).parents[2])
    leader = subprocess.Popen(
        [sys.executable, "-c", _LEADER.format(root=root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with leader:
        number, home = leader.stdout.readline().split()
        engine = psutil.Process(int(number))
        assert engine.is_running() and Path(home).is_dir()
        leader.kill()
        leader.wait()
        engine.wait(20)
    assert not Path(home).exists()


def test_moving_into_this_process_and_out_again_changes_nothing(policy):
    here, apart = (ask(policy, items=[item(0)], engine=engine) for engine in (ENGINE, APART))
    alike(here, apart)
