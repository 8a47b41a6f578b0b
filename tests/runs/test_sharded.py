"""One run with its weights or moments in shards: the same rows and weights as on one process."""

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
from vexp.errors import ConfigError
from vexp.runs.processes import span_of
from vexp.spec.identity import training_id
from vexp.spec.resolve import resolve

SHARDED, ZERO1, ZERO2 = (f"compute.shard={kind}" for kind in ("fsdp2", "zero1", "zero2"))
MORE = {
    "lora": ("algorithm=grpo", "algorithm.kl_coef=0.04", "backbone.lora.rank=4"),
    "vision frozen, recomputed": (
        "experiment=ease", "rl.freeze=[vision]", "compute.gradient_checkpointing=true",
    ),
    "papo": ("auxiliary.papo=papo", "rollout.max_response_length=8"),
    "cross-attention": ("backbone=tiny_mllama",),
}  # fmt: skip
# ZeRO has no part in a pass; so these are what an optimiser can tell apart.
OPTIMIZED = {
    "grpo with a reference, several updates": (ZERO1, 3),
    "warm start and anchor": (ZERO2, 3),
    "lora": (ZERO1, 2),
    "vision frozen, recomputed": (ZERO2, 2),
    "cross-attention": (ZERO2, 3),
    "stale": (ZERO1, 2),
}
STALE = {"stale": ("rl.staleness=1", "rl.weight_decay=0.1")}


def same(folder, alone, overrides, number, shard=SHARDED):  # noqa: F811
    small = (*overrides, "compute.micro_batch_size=6")
    one = alone(*small)
    several = finished(folder, *small, shard, number=number)
    assert several.name == one.name  # shards are no part of what the run is
    assert any(row["updates"] and row["grad_norm"] > 0 for row in rows(one))
    assert_alike(several, one)
    assert f"{number} processes" in attempt_log(several)


def test_shards_do_what_one_process_does(tmp_path, alone):  # noqa: F811
    """EASE: attention rows carry a gradient out of the middle of a gathered layer."""
    same(tmp_path, alone, METHODS["ease"], 2)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", (METHODS | MORE).values(), ids=METHODS | MORE)
def test_every_method_does_what_it_does_on_one_process(tmp_path, alone, overrides):  # noqa: F811
    """On three, of which one often has less to do, or nothing."""
    same(tmp_path, alone, overrides, 3)


@pytest.mark.deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZED)
def test_moments_in_shards_do_what_they_do_on_one_process(tmp_path, alone, name):  # noqa: F811
    shard, number = OPTIMIZED[name]
    same(tmp_path, alone, (METHODS | MORE | STALE)[name], number, shard)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "last"),
    [
        (((3, [SHARDED]), (1, [])), SHARDED),
        pytest.param(((2, [ZERO2]), (3, [SHARDED]), (1, [])), ZERO1, marks=pytest.mark.deepspeed),
    ],
    ids=["fsdp2", "every kind"],
)
def test_a_checkpoint_serves_every_kind_of_shard_and_none(tmp_path, alone, before, last):  # noqa: F811
    """Some stop, others with or without shards go on and stop, and two with shards finish."""
    for attempt, (number, shard) in enumerate(before, start=1):
        process = start(tmp_path, *LONG, *shard, number=number)
        at_step(tmp_path, 3 + 8 * (attempt - 1), attempt)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=240)
        assert process.returncode == 143, out
        assert "everything is saved" in out
    run = finished(tmp_path, *LONG, last, number=2)
    assert run.status().attempts == len(before) + 1
    assert_alike(run, alone(*LONG))


@pytest.mark.slow
@pytest.mark.parametrize("shard", [SHARDED, pytest.param(ZERO2, marks=pytest.mark.deepspeed)])
def test_a_process_killed_is_reported_and_the_next_call_goes_on(tmp_path, alone, shard):  # noqa: F811
    process = start(tmp_path, *LONG, shard, number=3)
    at_step(tmp_path, 3)
    os.kill(followers_of(process)[1], signal.SIGKILL)
    out, _ = process.communicate(timeout=240)
    wait_for(lambda: gone(tmp_path), 60)
    assert process.returncode == 1, out
    assert "process 1 of this run has ended: killed by SIGKILL" in out
    assert "Traceback" not in out
    record = json.loads((only(tmp_path).folder / "attempts/0001/failure.json").read_text())
    assert record["kind"] == "infra"
    run = finished(tmp_path, *LONG, shard, number=3)
    assert run.status().attempts == 2
    assert_alike(run, alone(*LONG))


@pytest.mark.parametrize("shard", [SHARDED, ZERO1, ZERO2])
def test_shards_are_no_part_of_a_runs_id(shard):
    plain, sharded = resolve([]), resolve([shard, "compute.processes=2"])
    assert training_id(plain) == training_id(sharded)


@pytest.mark.parametrize("processes", [[], ["compute.processes=1"]])
@pytest.mark.parametrize(("shard", "what"), [(SHARDED, "weights"), (ZERO1, "moments")])
def test_shards_of_one_process_are_one_message(processes, shard, what):
    with pytest.raises(ConfigError, match=f"one process has nobody to share its {what} with"):
        resolve([shard, *processes])


def test_a_launcher_may_give_the_processes():
    slurm = ["launcher=slurm", "launcher.gpus=2", "launcher.tasks_per_node=2", SHARDED]
    run = resolve([*slurm, "compute.device=cpu"])
    with pytest.raises(ConfigError, match="this run has one process"):
        span_of(run, None)  # started by hand, without the launcher
    with pytest.raises(ConfigError, match="nobody to share"):
        resolve(["launcher=slurm", "launcher.gpus=2", SHARDED])


@pytest.mark.parametrize("stage", ["rl", "warm_start"])
@pytest.mark.parametrize("shard", [SHARDED, ZERO1, ZERO2])
def test_moments_in_8_bits_have_no_shards(stage, shard):
    with pytest.raises(ConfigError, match="moments in 8 bits") as found:
        resolve([shard, "compute.processes=2", f"{stage}.optimizer=adamw_8bit"])
    assert f"{stage}.optimizer=adamw_8bit" in str(found.value)
