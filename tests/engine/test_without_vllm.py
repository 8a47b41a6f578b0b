"""What is said of `engine=vllm` where it cannot work; none of this needs vLLM."""

from __future__ import annotations

import importlib.util

import pytest

from tests.train.fakes import SMALLEST
from vexp.doctor.lacking import findings
from vexp.engine.vllm import VLLM
from vexp.errors import ConfigError
from vexp.policy import parallel
from vexp.spec.identity import training_id
from vexp.spec.resolve import resolve
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


def test_several_processes_may_each_have_one_and_only_one_apart_supports_prefetch(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    for more in ("separate=false", "separate=true"):
        run = resolve([*SMALLEST, "engine=vllm", f"engine.{more}", "compute.processes=2"])
        run.engine.check()
        assert run.engine.supports_prefetch == run.engine.separate
    assert not resolve([*SMALLEST]).engine.supports_prefetch


def test_a_response_has_to_leave_room_for_its_prompt():
    with pytest.raises(ConfigError, match="leaves no room for a prompt"):
        resolve(
            [*SMALLEST, "engine=vllm", "engine.max_length=24", "rollout.max_response_length=24"]
        )


def test_a_family_that_is_not_served_is_refused_at_composition():
    with pytest.raises(ConfigError, match="does not serve models of the family 'mllama'") as caught:
        resolve(["backbone=tiny_mllama", "engine=vllm"])
    assert "qwen2_5_vl" in str(caught.value)
    for name in ("tiny_internvl", "tiny_smolvlm"):
        resolve([f"backbone={name}", "engine=vllm"])


def test_the_doctor_says_why_an_engine_does_not_work(absent):
    found = [one for one in findings(resolve([*SMALLEST, "engine=vllm"])) if one.name == "engine"]
    assert [one.state for one in found] == ["missing"]
    assert "not installed" in found[0].detail
    assert not [one for one in findings(resolve([*SMALLEST])) if one.name == "engine"]


def test_memory_and_lengths_do_not_change_the_id_but_the_engine_does():
    base = training_id(resolve([*SMALLEST, "engine=vllm"]))
    more = ["engine.cache_gb=7", "engine.max_length=999", "engine.max_sequences=3"]
    more += ["engine.separate=true", "engine.patience_s=9", "engine.tensor_parallel=2"]
    more += ["engine.nodes=1", "engine.sleep=true", "compute.device=auto"]
    assert training_id(resolve([*SMALLEST, "engine=vllm", *more])) == base
    assert training_id(resolve([*SMALLEST])).hash != base.hash


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: object())
    for name in ("SLURM_JOB_ID", "SLURM_JOB_NUM_NODES"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("more", ["nodes=1", "tensor_parallel=2"])
def test_what_needs_a_process_of_its_own_says_so(installed, more):
    with pytest.raises(ConfigError, match=f"engine.{more} needs vLLM in a process") as caught:
        resolve([*SMALLEST, "engine=vllm", f"engine.{more}"])
    assert "engine.separate=true" in str(caught.value)
    name, _, value = more.partition("=")
    with pytest.raises(ConfigError, match="needs vLLM in a process"):
        VLLM(**{name: int(value)}).check()


def test_nodes_outside_slurm_are_one_message_before_anything_trains(installed, tmp_path):
    class Empty:
        checkpoint_dirs = ()
        note = print

    run = resolve([*SMALLEST, "engine=vllm", "engine.separate=true", "engine.nodes=1"])
    with pytest.raises(ConfigError, match="this process is in none") as caught:
        train(run, Empty())
    assert len(caught.value.problems) == 1
    assert "launcher=slurm" in str(caught.value) and "engine.nodes=0" in str(caught.value)


def test_a_job_without_a_node_to_spare_is_refused(installed, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    VLLM(separate=True, nodes=1).check()
    with pytest.raises(ConfigError, match=r"has 2 node\(s\), which leaves none"):
        VLLM(separate=True, nodes=2).check()


def test_too_few_gpus_are_said_before_anything_trains(installed, monkeypatch):
    from vexp.engine._vllm_server import chosen

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    VLLM(separate=True, tensor_parallel=2).check()
    with pytest.raises(ConfigError, match="needs as many GPUs, and torch sees 2"):
        VLLM(separate=True, tensor_parallel=4).check()
    assert list(chosen("abcd", 1, 2)) == ["c", "d"]
    with pytest.raises(ConfigError, match=r"engine number 2 on .* needs 3 GPU\(s\), and 4 are"):
        chosen("abcd", 1, 3)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["launcher.engine_nodes=1"], "1 node(s) are asked for engines, and the engine uses 0"),
        (["engine.tensor_parallel=2"], "2 engine(s) on a node, each on 2 GPU(s)"),
        (["engine.tensor_parallel=4", "engine.nodes=1"], "4 engine(s) on a node, each on 4"),
    ],
)
def test_what_a_launcher_cannot_give_is_said_at_composition(more, said):
    base = ["engine=vllm", "engine.separate=true", "launcher=slurm", "launcher.gpus=2"]
    base += ["launcher.nodes=2", "launcher.tasks_per_node=2", "compute.device=auto"]
    resolve([*SMALLEST, *base])
    with pytest.raises(ConfigError) as caught:
        resolve([*SMALLEST, *base, *more])
    assert said in str(caught.value)


def test_the_doctor_does_not_expect_a_jobs_nodes_where_it_is_launched(installed):
    apart = ["engine=vllm", "engine.separate=true", "engine.nodes=1"]
    for launcher, state in (("local", "missing"), ("slurm", "absent")):
        run = resolve([*SMALLEST, *apart, f"launcher={launcher}"])
        found = [one for one in findings(run) if one.name == "engine"]
        assert [one.state for one in found] == [state]
        assert "Slurm job" in found[0].detail
