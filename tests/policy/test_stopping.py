"""A request to stop within a step: the step is given up, and done again to the last bit."""

from __future__ import annotations

import json

import pytest

from tests.train.fakes import Folder, coin_run
from tests.train.test_stages import RL, weights_of, whole
from vexp.errors import Interrupted
from vexp.policy import parallel, stopping
from vexp.train.metrics import nothing_kept
from vexp.train.stages import train

WAYS = {
    "plain": (),
    "dynamic sampling": ("experiment=dapo", "group_filter.max_batches=3"),
    "stale": ("rl.staleness=1",),
    "reference": ("algorithm=grpo",),  # whose experience pass is interrupted as well
}


def told_within(root, steps, asked):
    """A first attempt that is told to stop `asked` questions into the step after `steps`."""
    folder, count = Folder(root), 0

    def requested():
        nonlocal count
        count += len(folder.seen) == steps
        return count > asked

    folder.stop_requested = requested
    return folder


@pytest.mark.parametrize("asked", [1, 2, 4])  # after the step before, between batches, in a token
@pytest.mark.parametrize("way", WAYS)
def test_a_step_that_was_given_up_is_done_again_bit_by_bit(tmp_path, way, asked):
    overrides = (*RL, *WAYS[way], "checkpoint.every=3")
    straight, one = whole(tmp_path, *overrides)
    run, first = coin_run(*overrides), told_within(tmp_path / "parts", 2, asked)
    with pytest.raises(Interrupted, match=r"step [23] of 4"):
        train(run, first)
    second = Folder(tmp_path / "parts", attempt=2)
    continued = train(run, second)
    assert second.resumed_at[-1] == len(first.metrics) >= 2
    assert weights_of(continued) == weights_of(straight)
    assert json.dumps(first.metrics + second.metrics) == json.dumps(one.metrics)


@pytest.mark.parametrize("overrides", [(), ("rl.staleness=1",)])
def test_a_run_that_is_stopped_in_its_first_step_leaves_no_checkpoint(tmp_path, overrides):
    first = told_within(tmp_path / "parts", 0, 3)
    if overrides:  # its first batch is sampled before the first step
        first.stop_requested = lambda: True
    with pytest.raises(Interrupted, match=r"step [01] of 4"):
        train(coin_run(*RL, *overrides), first)
    home = tmp_path / "parts" / "1" / "checkpoints"
    assert [path.name for path in home.glob("step-*")] == ["step-000001"] * bool(overrides)


def test_of_several_processes_none_goes_by_itself(monkeypatch):
    with stopping.heeding(lambda: True):
        with pytest.raises(stopping.Abandoned):
            stopping.check()
        monkeypatch.setattr(parallel, "world_size", lambda: 2)
        stopping.check()
        with pytest.raises(stopping.Abandoned):
            stopping.check_together()
    stopping.check_together()  # outside nobody is asked


def test_a_step_that_keeps_no_group_says_so(tmp_path):
    folder = Folder(tmp_path)
    run = coin_run(
        *RL, "rl.steps=1", "group_filter=dynamic_sampling", "group_filter.max_batches=2",
        "group_filter.low=0.999", "group_filter.high=1.0",
    )  # fmt: skip
    train(run, folder)
    (row,) = folder.metrics
    assert row["groups_kept"] == row["updates"] == 0
    (note,) = folder.notes
    count = 2 * run.rl.prompts_per_step
    assert note.startswith(f"step 1: none of {count} groups in 2 batches passed")
    assert "group_filter=dynamic_sampling" in note
    assert f"({row['groups_all_wrong']} all wrong, {row['groups_all_right']} all right)" in note


def test_the_reason_is_given_where_no_answer_could_be_read():
    run = coin_run("rollout.group_size=4", "group_filter=dynamic_sampling")
    row = {
        "groups_kept": 0, "groups_generated": 3, "batches": 1, "groups_all_wrong": 3,
        "groups_all_right": 0, "verifier/no_answer": 11,
    }  # fmt: skip
    assert nothing_kept(run, row).endswith(
        "11 of 12 responses have no answer in a form that is read"
    )
    assert nothing_kept(run, {**row, "groups_kept": 1}) == ""
