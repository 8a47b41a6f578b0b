"""vLLM in every process of a run: the rows of `hf` in one process, whatever is in shards."""

from __future__ import annotations

import dataclasses
import os
import signal
from types import SimpleNamespace

import pytest

from tests.runs.test_processes import (
    RUN,
    at_step,
    finished,
    gone,
    only,
    rows,
    start,
    wait_for,
    weights,
)
from tests.vllm.test_vllm_engine import ENGINE, SMALL, fresh
from vexp.engine._vllm_server import ModelSpec, arguments
from vexp.runs.execute import execute
from vexp.runs.store import RunStore
from vexp.runs.workspace import SilentReporter
from vexp.spec.resolve import resolve

# Three prompts: one process decodes twice as many responses as the other one.
ASKED = ("rl.prompts_per_step=3", "rollout.max_response_length=12", "rl.steps=16")
HERE = ("engine=vllm", *SMALL)


def alone(folder, *overrides):
    """The run of one process that generates with `hf`."""
    run, store = resolve([*RUN, *overrides]), RunStore(folder / "results")
    execute(run, reporter=SilentReporter(), store=store, evaluate=False)
    return only(folder)


def alike(found, expected):
    ours, theirs = rows(found), rows(expected)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs] == list(range(1, 17))
    assert any(row["updates"] and row["grad_norm"] > 0 for row in theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one["reward"] == pytest.approx(other["reward"], abs=1e-6)
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert one["mismatch/max"] < 1e-5
    mine, others = weights(found), weights(expected)
    assert mine.keys() == others.keys()
    assert max((mine[name] - others[name]).abs().max() for name in mine) < 1e-4


def test_with_weights_in_shards_every_process_asks_its_own(tmp_path):
    expected = alone(tmp_path / "hf", *ASKED)
    found = finished(tmp_path / "vllm", *ASKED, *HERE, "compute.shard=fsdp2", number=2)
    alike(found, expected)
    assert "2 processes" in (found.folder / "attempts/0001/log.txt").read_text()


def test_with_adapters_it_is_killed_and_goes_on(tmp_path):
    asked = (*ASKED, "backbone.lora.rank=4")
    expected = alone(tmp_path / "hf", *asked)
    folder = tmp_path / "vllm"
    process = start(folder, *asked, *HERE, number=2)
    at_step(folder, 3)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    wait_for(lambda: gone(folder), 30)
    found = finished(folder, *asked, *HERE, number=2)
    assert found.status().attempts == 2
    alike(found, expected)


def test_on_a_machine_with_several_gpus_it_takes_its_processs_own(monkeypatch, tmp_path):
    """No GPU is needed: it is what vLLM's configuration, and its worker, are told."""
    from vllm.config import ParallelConfig
    from vllm.v1.executor.abstract import Executor

    served = dataclasses.replace(ModelSpec.of(ENGINE, fresh()), device="cuda")
    found = {}
    for number in (0, 3):
        monkeypatch.setattr("torch.cuda.current_device", lambda number=number: number)
        backend = arguments(served, tmp_path)["distributed_executor_backend"]
        config = SimpleNamespace(
            parallel_config=ParallelConfig(distributed_executor_backend=backend),
            device_config=SimpleNamespace(device="cuda"),
        )
        kind = Executor.get_class(config)
        executor = kind.__new__(kind)
        executor.vllm_config = config
        found[number] = executor._distributed_args()[1:]
    assert found == {0: (0, 0), 3: (0, 3)}
