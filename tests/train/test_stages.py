"""Whole runs of a tiny policy: every stage, resumed at every point, ends in the same bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest

from tests.train.fakes import Folder, coin_run
from vexp.dataset.digits_vqa import DigitsVqa
from vexp.dataset.table import Table
from vexp.errors import CheckpointError, DataError, Diverged, Interrupted, VexpError
from vexp.spec.identity import stage_key
from vexp.train.stages import Trained, train

RL = ("stages=[rl]", "rl.steps=4", "rl.learning_rate=1e-3", "checkpoint.every=2")
BOTH = (
    "rl.steps=2",
    "warm_start.steps=4",
    "warm_start.batch_size=6",
    "checkpoint.every=2",
)


def weights_of(trained):
    return hashlib.sha256((trained.model / "model.safetensors").read_bytes()).hexdigest()


def whole(tmp_path, *overrides):
    folder = Folder(tmp_path / "whole")
    return train(coin_run(*overrides), folder), folder


def resumed(tmp_path, *overrides, stop_after, crash=False):
    """The same run, stopped after some progress reports and continued by a second attempt."""
    run = coin_run(*overrides)
    first = Folder(tmp_path / "parts", stop_after=stop_after)
    if crash:
        first.stop_requested = lambda: crash_at(first, stop_after)
    with pytest.raises(KeyboardInterrupt if crash else Interrupted):
        train(run, first)
    second = Folder(tmp_path / "parts", attempt=2)
    return train(run, second), first, second


def crash_at(folder, count):
    """Dies like a killed process: nothing is saved at this point."""
    if len(folder.seen) == count:
        raise KeyboardInterrupt
    return False


def test_the_start_says_once_what_is_to_know_of_the_data(tmp_path):
    (tmp_path / "data.jsonl").write_text('{"question": "2+2?<|im_end|>", "answer": 4.0}\n' * 30)
    table = Table(path=str(tmp_path / "data.jsonl"))
    run = coin_run("stages=[rl]", "rl.steps=1")
    run = dataclasses.replace(run, mix=dataclasses.replace(run.mix, datasets={"sums": table}))
    folder = Folder(tmp_path / "run")
    train(run, folder)
    assert [note.partition(" (")[0] for note in folder.notes] == [
        f"mix.datasets.sums: 30 rows: {what}"
        for what in (
            "<|im_end|> in the question is read as plain characters",
            "the answer is written as an integer, like all of its column",
        )
    ]


VARIANTS = {
    "grpo with reference": ("algorithm=grpo", "rl.steps=6"),
    "dapo with dynamic sampling": ("experiment=dapo", "group_filter.max_batches=3"),
    "noisy rollouts": ("rollout=noisy", "rollout.group_size=2", "rollout.midpoint=2"),
    "several updates": ("algorithm=gspo", "rl.prompts_per_update=2", "rl.epochs_per_step=2"),
}


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_stopped_after_three_steps_and_resumed_equals_never_stopped(tmp_path, overrides):
    straight, one = whole(tmp_path, *RL, *overrides)
    continued, first, second = resumed(tmp_path, *RL, *overrides, stop_after=3)
    assert second.resumed_at == [3]
    assert all(row["updates"] for row in one.metrics)
    assert weights_of(continued) == weights_of(straight)
    assert json.dumps(first.metrics + second.metrics) == json.dumps(one.metrics)
    for name in ("optimizer.safetensors", "state.json"):
        assert (continued.checkpoint / name).read_bytes() == (
            straight.checkpoint / name
        ).read_bytes()


def test_killed_between_checkpoints_and_resumed_equals_never_stopped(tmp_path):
    straight, one = whole(tmp_path, *RL)
    continued, first, second = resumed(tmp_path, *RL, stop_after=3, crash=True)
    assert second.resumed_at == [2]
    assert weights_of(continued) == weights_of(straight)
    assert first.metrics[:2] + second.metrics == one.metrics


def test_a_damaged_checkpoint_costs_steps_but_changes_nothing(tmp_path):
    keep = ("checkpoint.keep.latest=2",)
    straight, one = whole(tmp_path, *RL, *keep)
    run = coin_run(*RL, *keep)
    first = Folder(tmp_path / "parts", stop_after=3)
    with pytest.raises(Interrupted):
        train(run, first)
    (first.checkpoint_dirs[0] / "step-000003" / "model" / "model.safetensors").write_bytes(b"no")
    second = Folder(tmp_path / "parts", attempt=2)
    continued = train(run, second)
    assert second.resumed_at == [2]
    assert "model/model.safetensors" in second.notes[0]
    assert weights_of(continued) == weights_of(straight)
    assert first.metrics[:2] + second.metrics == one.metrics


def test_a_finished_run_is_not_trained_again(tmp_path):
    _, folder = whole(tmp_path, *RL, "rl.steps=2")
    again = Folder(tmp_path / "whole", attempt=2)
    trained = train(coin_run(*RL, "rl.steps=2"), again)
    assert trained.model == folder.checkpoint_dirs[0] / "step-000002" / "model"
    assert again.resumed_at == [2]
    assert again.metrics == []


def test_retention_is_enforced_across_attempts(tmp_path):
    _, _, second = resumed(tmp_path, *RL, stop_after=3)
    left = [p.name for home in second.checkpoint_dirs for p in home.glob("*")]
    assert left == ["step-000004"]


def test_metrics_hold_neither_times_nor_nan_and_timings_hold_all_phases(tmp_path):
    _, folder = whole(tmp_path, *RL, "rl.steps=2")
    assert [row["step"] for row in folder.metrics] == [1, 2]
    json.dumps(folder.metrics, allow_nan=False)
    assert set(folder.timings[0]) == {"step", "generate_s", "score_s", "update_s", "total_s"}
    assert all(0 < row["update_s"] <= row["total_s"] for row in folder.timings)


def test_the_seed_changes_the_run_and_the_micro_batch_does_not_change_the_responses(tmp_path):
    _, one = whole(tmp_path / "a", *RL, "rl.steps=1")
    _, other = whole(tmp_path / "b", *RL, "rl.steps=1", "seed=2")
    _, split = whole(tmp_path / "c", *RL, "rl.steps=1", "compute.micro_batch_size=3")
    assert one.metrics[0]["reward"] != other.metrics[0]["reward"]
    assert one.metrics[0]["reward"] == split.metrics[0]["reward"]
    assert one.metrics[0]["grad_norm"] == pytest.approx(split.metrics[0]["grad_norm"], rel=1e-4)


def test_no_stages_is_the_backbone_as_it_is(tmp_path):
    folder = Folder(tmp_path)
    assert train(coin_run("stages=[]"), folder) == Trained(None, None, 0)


def test_the_warm_start_is_built_once_and_shared(tmp_path):
    trained, folder = whole(tmp_path, *BOTH)
    assert folder.built == ["warm_start"]
    other = Folder(folder.root)
    alone = train(coin_run(*BOTH, "stages=[warm_start]", "seed=7"), other)
    assert other.built == []
    assert alone.checkpoint is None
    key = stage_key(coin_run(*BOTH), "warm_start")
    assert alone.model == folder.root / "stages" / f"warm_start-{key}" / "model"
    assert weights_of(alone) != weights_of(trained)
    rows = (alone.model.parent / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2, 3, 4]
    losses = [json.loads(row)["loss"] for row in rows]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("crash", [False, True], ids=["stopped", "killed"])
def test_an_interrupted_warm_start_ends_in_the_same_bytes(tmp_path, crash):
    only = (*BOTH, "stages=[warm_start]")
    straight, _ = whole(tmp_path, *only)
    continued, _, second = resumed(tmp_path, *only, stop_after=3, crash=crash)
    assert second.seen[0] == ("warm_start", 3 if crash else 4)
    assert weights_of(continued) == weights_of(straight)
    name = "metrics.jsonl"
    assert (continued.model.parent / name).read_text() == (straight.model.parent / name).read_text()


def test_a_damaged_stage_is_named(tmp_path):
    trained, folder = whole(tmp_path, *BOTH, "stages=[warm_start]")
    (trained.model / "model.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match=r"model/model\.safetensors") as caught:
        train(coin_run(*BOTH), folder)
    assert str(trained.model.parent) in str(caught.value)


def test_the_reference_after_resuming_is_the_warm_start_and_not_the_checkpoint(tmp_path):
    kl = ("algorithm=grpo", "algorithm.kl_coef=0.1", "rl.steps=4", "rl.learning_rate=1e-2")
    straight, one = whole(tmp_path, *BOTH, *kl)
    continued, _, second = resumed(tmp_path, *BOTH, *kl, stop_after=4 + 2)
    assert second.metrics[0]["kl_reference"] > 1e-4
    assert weights_of(continued) == weights_of(straight)
    assert second.metrics == one.metrics[2:]


def test_micro_batches_do_not_change_the_warm_start(tmp_path):
    only = (*BOTH, "stages=[warm_start]")
    one, _ = whole(tmp_path / "a", *only, "compute.micro_batch_size=64")
    other, _ = whole(tmp_path / "b", *only, "compute.micro_batch_size=4")

    def losses(trained):
        lines = (trained.model.parent / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    assert losses(other) == pytest.approx(losses(one), rel=1e-4)


def test_items_without_demonstrations_cannot_be_imitated(tmp_path, monkeypatch):
    run = coin_run(*BOTH, "stages=[warm_start]")
    original = DigitsVqa.item

    def without(self, split, index):
        return dataclasses.replace(original(self, split, index), demonstration="")

    monkeypatch.setattr(DigitsVqa, "item", without)
    with pytest.raises(DataError, match="imitates demonstrations") as caught:
        train(run, Folder(tmp_path))
    assert "main/train/" in str(caught.value)
    assert "stages=[rl]" in str(caught.value)


def test_divergence_stops_the_run_and_keeps_the_last_checkpoint(tmp_path):
    run = coin_run(*RL, "rl.learning_rate=1e30", "rl.steps=50", "checkpoint.every=1")
    folder = Folder(tmp_path)
    with pytest.raises(Diverged, match="diverged"):
        train(run, folder)
    json.dumps(folder.metrics, allow_nan=False)
    kept = list(folder.checkpoint_dirs[0].glob("step-*"))
    assert [p.name for p in kept] == [f"step-{len(folder.metrics):06d}"]


def test_a_metric_that_does_not_exist_cannot_rank_checkpoints(tmp_path):
    run = coin_run(*RL, "checkpoint.keep.best=1", "checkpoint.keep.by=rewards")
    with pytest.raises(VexpError, match="'rewards'") as caught:
        train(run, Folder(tmp_path))
    assert "did you mean 'reward'" in str(caught.value)
