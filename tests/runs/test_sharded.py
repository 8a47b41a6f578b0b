"""One run with its weights in shards (FSDP2): the same rows and weights as on one process."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.runs.test_processes import (
    LONG,
    METHODS,
    alone,  # noqa: F401  (a fixture)
    assert_alike,
    at_step,
    attempt_log,
    finished,
    followers_of,
    gone,
    only,
    rows,
    start,
    wait_for,
)
from vexp.config.compose import resolve
from vexp.config.identity import training_id
from vexp.errors import ConfigError
from vexp.runs.processes import span_of

SHARDED = "compute.shard=fsdp2"
MORE = {
    "lora": ("algorithm=grpo", "algorithm.kl_coef=0.04", "backbone.lora.rank=4"),
    "vision frozen, recomputed": (
        "experiment=ease", "rl.freeze=[vision]", "compute.gradient_checkpointing=true",
    ),
    "papo": ("auxiliary.papo=papo", "rollout.max_response_length=8"),
    "cross-attention": ("backbone=tiny_mllama",),
}  # fmt: skip


def same(folder, alone, overrides, number):  # noqa: F811
    small = (*overrides, "compute.micro_batch_size=6")
    one = alone(*small)
    several = finished(folder, *small, SHARDED, number=number)
    assert several.name == one.name  # shards are no part of what the run is
    assert any(row["updates"] and row["grad_norm"] > 0 for row in rows(one))
    assert_alike(several, one)
    assert f"{number} processes" in attempt_log(several)


def test_shards_do_what_one_process_does(tmp_path, alone):  # noqa: F811
    """EASE: attention rows carry a gradient out of the middle of a gathered layer."""
    same(tmp_path, alone, METHODS["ease"], 2)


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("overrides", (METHODS | MORE).values(), ids=METHODS | MORE)
def test_every_method_does_what_it_does_on_one_process(tmp_path, alone, overrides, number):  # noqa: F811
    same(tmp_path, alone, overrides, number)


@pytest.mark.slow
def test_a_checkpoint_serves_shards_and_no_shards(tmp_path, alone):  # noqa: F811
    """Three with shards stop, one without goes on and stops, two with shards finish."""
    for attempt, (number, shard) in enumerate(((3, [SHARDED]), (1, [])), start=1):
        process = start(tmp_path, *LONG, *shard, number=number)
        at_step(tmp_path, 3 + 10 * (attempt - 1), attempt)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=240)
        assert process.returncode == 143, out
        assert "everything is saved" in out
    run = finished(tmp_path, *LONG, SHARDED, number=2)
    assert run.status().attempts == 3
    assert_alike(run, alone(*LONG))


@pytest.mark.slow
def test_a_process_killed_is_reported_and_the_next_call_goes_on(tmp_path, alone):  # noqa: F811
    process = start(tmp_path, *LONG, SHARDED, number=3)
    at_step(tmp_path, 3)
    os.kill(followers_of(process)[1], signal.SIGKILL)
    out, _ = process.communicate(timeout=240)
    wait_for(lambda: gone(tmp_path), 60)
    assert process.returncode == 1, out
    assert "process 1 of this run has ended: killed by SIGKILL" in out
    assert "Traceback" not in out
    record = json.loads((only(tmp_path).folder / "attempts/0001/failure.json").read_text())
    assert record["kind"] == "infra"
    run = finished(tmp_path, *LONG, SHARDED, number=3)
    assert run.status().attempts == 2
    assert_alike(run, alone(*LONG))


def test_shards_are_no_part_of_a_runs_id():
    plain, sharded = resolve([]), resolve([SHARDED, "compute.processes=2"])
    assert training_id(plain) == training_id(sharded)


@pytest.mark.parametrize("processes", [[], ["compute.processes=1"]])
def test_shards_of_one_process_are_one_message(processes):
    with pytest.raises(ConfigError, match="one process has nobody to share its weights with"):
        resolve([SHARDED, *processes])


def test_a_launcher_may_give_the_processes():
    slurm = ["launcher=slurm", "launcher.gpus=2", "launcher.tasks_per_node=2", SHARDED]
    run = resolve([*slurm, "compute.device=cpu"])
    with pytest.raises(ConfigError, match="this run has one process"):
        span_of(run, None)  # started by hand, without the launcher
    with pytest.raises(ConfigError, match="nobody to share"):
        resolve(["launcher=slurm", "launcher.gpus=2", SHARDED])


@pytest.mark.parametrize("stage", ["rl", "warm_start"])
def test_moments_in_8_bits_have_no_shards(stage):
    with pytest.raises(ConfigError, match="moments in 8 bits") as found:
        resolve([SHARDED, "compute.processes=2", f"{stage}.optimizer=adamw_8bit"])
    assert f"{stage}.optimizer=adamw_8bit" in str(found.value)
