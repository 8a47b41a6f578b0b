"""From prompts to the groups that train."""

from __future__ import annotations

import dataclasses

import pytest

from tests.train.fakes import Reader, SaysRight, Scripted
from vexp.spec.resolve import resolve
from vexp.train import metrics
from vexp.train.collect import collect, distinct, to_experience
from vexp.train.timing import Clock

SIZE = 4
SETTINGS = (
    "rl.prompts_per_step=3",
    f"rollout.group_size={SIZE}",
    "rollout.max_response_length=6",
    "group_filter=dynamic_sampling",
)


def collected(right, *overrides, cursor=0):
    run = resolve([*SETTINGS, *overrides])
    run = dataclasses.replace(run, engine=Scripted(right=right), verifier=SaysRight())
    policy = Reader()
    found = collect(run, policy, step=1, cursor=cursor, clock=Clock())
    return run, policy, found, to_experience(run, policy, found)


def test_sampling_goes_on_until_enough_groups_are_neither_solved_nor_failed():
    run, policy, found, experience = collected([0, 2, SIZE, 1, 0, 3, 2, 2, 2])
    assert len(run.engine.calls) == 2
    assert found.cursor == 6
    assert found.kept == 3
    assert experience.tokens[:, 0].reshape(3, SIZE).sum(1).tolist() == [2, 1, 3]
    assert experience.group.tolist() == [0] * SIZE + [1] * SIZE + [2] * SIZE
    kept = [run.engine.calls[0][1], run.engine.calls[1][0], run.engine.calls[1][2]]
    assert policy.encoded[-1] == kept


def test_batches_of_different_widths_are_padded_to_one():
    _, policy, found, experience = collected([0, 2, SIZE, 1, 0, 3])
    widths = [batch.generated.tokens.shape[1] for batch in found.batches]
    assert widths == [3, 4]
    assert experience.tokens.shape == (12, 4)
    assert (experience.tokens[:SIZE, 3] == policy.pad_id).all()
    assert not experience.mask[:, 2:].any()
    assert (experience.sampling_logprobs[:, 2:] == 0).all()


def test_a_batch_that_keeps_nothing_is_not_an_error():
    run, _, found, experience = collected([0] * 6 + [1] * 3)
    assert len(run.engine.calls) == 3
    assert found.kept == 3
    assert len(experience) == 3 * SIZE


def test_at_the_limit_the_step_trains_on_what_there_is():
    run, _, found, experience = collected([0, 0, 1], "group_filter.max_batches=2")
    assert len(run.engine.calls) == 2
    assert len(experience) == 2 * SIZE
    assert metrics.of_rollouts(found, SIZE)["groups_kept"] == 2


def test_at_the_limit_with_nothing_kept_there_is_no_experience():
    _, _, found, experience = collected([0], "group_filter.max_batches=2")
    assert experience is None
    row = metrics.of_rollouts(found, SIZE)
    assert row["groups_kept"] == 0
    assert row["groups_generated"] == 6
    assert row["accuracy"] == 0.0
    assert row["frac_zero_std"] == 1.0


def test_more_kept_groups_than_needed_are_cut_to_the_step():
    _, _, found, experience = collected([1, 1, 0, 1, 1, 1])
    assert found.kept == 5
    assert len(experience) == 3 * SIZE


def test_one_full_batch_is_not_encoded_twice():
    _, policy, _, experience = collected([1, 2, 3])
    assert len(policy.encoded) == 1
    assert experience.prompts.numbers == (0, 1, 2)


def test_without_a_filter_every_group_trains():
    run, _, _, experience = collected([0, 2, SIZE], "group_filter=none")
    assert len(run.engine.calls) == 1
    assert len(experience) == 3 * SIZE
    assert experience.rewards.tolist() == pytest.approx(
        [0.0] * SIZE + [0.9, 0.9, 0.0, 0.0] + [0.9] * SIZE
    )


def test_a_filter_that_does_not_sample_again_selects_prompts():
    _, policy, _, experience = collected([0, 2, SIZE], "group_filter.max_batches=1")
    assert experience.prompts.numbers == (1,)
    assert len(policy.encoded) == 1


def test_metrics_count_every_response_and_the_experience_only_the_kept():
    _, _, found, _ = collected([0, 2, SIZE, 1, 0, 3])
    row = metrics.of_rollouts(found, SIZE)
    assert row["accuracy"] == pytest.approx(10 / 24)
    assert row["reward"] == pytest.approx(0.9 * 10 / 24)
    assert row["reward/accuracy"] == row["accuracy"]
    assert row["frac_zero_std"] == pytest.approx(3 / 6)
    assert row["truncation_rate"] == pytest.approx(14 / 24)
    assert row["response_length"] == 2.0
    assert row["batches"] == 2


def test_the_cursor_decides_which_items_come_next():
    run, _, found, _ = collected([1])
    again, _, _, _ = collected([1], cursor=3)
    assert found.cursor == 3
    assert not set(run.engine.calls[0]) & set(again.engine.calls[0])


def test_an_item_that_comes_twice_in_a_step_has_noise_of_its_own():
    from collections import Counter

    seen = Counter()
    assert distinct(["a", "b", "a"], seen) == ["a", "b", "a#2"]
    assert distinct(["a", "c"], seen) == ["a#3", "c"]
