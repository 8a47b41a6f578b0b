"""Replay in the loop: what takes which place, with which advantage and which old log-probs."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.train.fakes import coin_run
from vexp.experience.batch import forward
from vexp.train.batch import update_plan
from vexp.train.checkpoint import State
from vexp.train.collect import collect, to_experience
from vexp.train.component_state import FILTER, initial
from vexp.train.learner import make_learner
from vexp.train.replay import refilled, remembered
from vexp.train.step import train_step, with_advantages
from vexp.train.timing import Clock

SIZE, PROMPTS = 4, 4
REPLAY = (
    "stages=[rl]",
    "rl.learning_rate=1e-2",
    "rl.ramp_steps=0",
    "algorithm=dapo",
    "group_filter=replay",
)


def learner_for(*overrides):
    return make_learner(coin_run(*REPLAY, *overrides), None, None, "cpu")


def sampled(learner, step, rewards):
    """The bare experience of a step, under made-up rewards of each group."""
    cursor = PROMPTS * (step - 1)
    found = collect(learner.run, learner.policy, step=step, cursor=cursor, clock=Clock())
    experience = to_experience(learner.run, learner.policy, found)
    made_up = torch.tensor(rewards, dtype=torch.float64).flatten()
    return dataclasses.replace(experience, rewards=made_up)


MIXED, SAME = [0.0, 1.0, 1.0, 0.0], [0.5] * SIZE


def two_steps(*overrides, second=(MIXED, SAME, SAME, MIXED)):
    """A first step that is learned from, and the second one's bare and refilled experience."""
    learner = learner_for(*overrides)
    run = learner.run
    memory = initial(run)
    bare = sampled(learner, 1, [MIXED] * PROMPTS)
    first = refilled(run, learner.policy, bare, memory, 1)
    batch = with_advantages(learner, first, 1)
    memory = remembered(run, batch, memory)
    learner.update(batch, step=1, updates=0)
    bare = sampled(learner, 2, list(second))
    return learner, batch, memory, bare, refilled(run, learner.policy, bare, memory, 2)


def test_with_an_empty_buffer_groups_without_an_advantage_just_go():
    learner = learner_for()
    bare = sampled(learner, 1, [SAME, MIXED, SAME, SAME])
    found = refilled(learner.run, learner.policy, bare, initial(learner.run), 1)
    assert len(found) == SIZE
    assert found.ordinals == (1,)
    assert found.slot.tolist() == [1] * SIZE
    assert not found.replayed.any()


def test_with_nothing_left_there_is_no_experience():
    learner = learner_for()
    bare = sampled(learner, 1, [SAME] * PROMPTS)
    assert refilled(learner.run, learner.policy, bare, initial(learner.run), 1) is None


def test_a_filter_that_does_not_replay_leaves_the_experience_alone():
    learner = learner_for("group_filter=none")
    bare = sampled(learner, 1, [SAME] * PROMPTS)
    assert refilled(learner.run, learner.policy, bare, {}, 1) is bare
    assert initial(learner.run) == {}


def test_old_rollouts_take_the_free_places():
    _, first, memory, bare, second = two_steps()
    assert len(memory[FILTER]["outcome"]) == PROMPTS * SIZE
    assert second.replayed.tolist() == [False] * 8 + [True] * 8
    assert second.slot.tolist() == [0] * 4 + [3] * 4 + [1] * 4 + [2] * 4
    assert second.ordinals[:2] == (4, 7)
    assert set(second.ordinals[2:]) <= {0, 1, 2, 3}
    ids = [second.items[group].id for group in second.group.tolist()]
    assert ids[:8] == [bare.items[0].id] * 4 + [bare.items[3].id] * 4
    known = {
        (first.ordinals[group], place): row
        for row, (group, place) in enumerate(
            zip(first.group.tolist(), first.place.tolist(), strict=True)
        )
    }
    for row in range(8, 16):
        ordinal = second.ordinals[int(second.group[row])]
        source = known[ordinal, int(second.place[row])]
        mask = first.mask[source]
        length = int(mask.sum())
        assert int(second.mask[row].sum()) == length
        assert second.tokens[row, :length].equal(first.tokens[source, :length])
        assert second.old_logprobs[row, :length].equal(first.old_logprobs[source, :length])
        assert second.outcome[row] == first.outcome[source]
        assert second.rewards[row] == first.rewards[source]
        assert ids[row] == first.items[int(first.group[source])].id


def test_ratio_leaves_places_empty():
    _, _, _, _, second = two_steps("group_filter.ratio=0.25")
    assert int(second.replayed.sum()) == 4
    assert second.slot.unique().tolist() == [0, 1, 3]


def test_a_step_may_be_replayed_alone():
    learner, _, _, _, second = two_steps(second=[SAME] * PROMPTS)
    assert second.replayed.all()
    assert len(second) == 8
    learned = learner.update(with_advantages(learner, second, 2), step=2, updates=1)
    assert learned.metrics["grad_norm"] > 0


def test_replayed_rows_keep_their_old_logprobs_and_advantages_and_others_have_new_ones():
    learner, _, _, _, second = two_steps()
    batch = with_advantages(learner, second, 2)
    with torch.no_grad():
        now = forward(learner.policy, second, 1.0).logprobs
    old, mask = batch.old_logprobs, second.mask
    torch.testing.assert_close(old[:8], now[:8])
    assert (
        old[8:].masked_fill(~mask[8:], 0).equal(second.old_logprobs[8:].masked_fill(~mask[8:], 0))
    )
    assert (old - now)[8:][mask[8:]].abs().max() > 1e-3
    per_token = second.outcome[:, None] * mask
    torch.testing.assert_close(batch.advantages, per_token.float())
    expected = learner.run.algorithm.advantages(second.rewards[:8], torch.arange(8) // 4)
    assert second.outcome[:8].equal(expected)


def test_every_update_of_a_step_has_the_same_number_of_groups():
    learner, _, _, _, second = two_steps("rl.prompts_per_update=2")
    batch = with_advantages(learner, second, 2)
    rows = [
        sorted(row for rows in update for row in rows) for update in update_plan(learner.run, batch)
    ]
    assert rows == [[*range(4), *range(8, 12)], [*range(4, 8), *range(12, 16)]]
    weights = batch.weights
    for chosen in rows:
        assert float(weights[chosen].sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_micro_batches_do_not_change_the_update(size):
    def norm(micro_batch):
        learner, _, _, _, second = two_steps(f"compute.micro_batch_size={micro_batch}")
        learned = learner.update(with_advantages(learner, second, 2), step=2, updates=1)
        return learned.metrics["grad_norm"], learned.metrics["loss"]

    assert norm(size) == pytest.approx(norm(64), rel=1e-3, abs=1e-5)


def test_steps_of_a_real_policy_count_what_is_replayed():
    learner = learner_for("rl.prompts_per_step=4", "rollout=noisy", "rollout.group_size=2")
    state = State(memory=initial(learner.run))
    rows = []
    for _ in range(3):
        state = train_step(learner, state, Clock())
        rows.append(state.metrics)
    assert rows[0]["replayed"] == 0
    assert state.updates == 3
    stored = state.memory[FILTER]
    assert len(stored["outcome"]) == len(stored["tokens"]) > 0
    assert (stored["outcome"] != 0).all()


def test_a_reference_kl_and_an_auxiliary_loss_see_replayed_rows_too():
    learner, _, _, _, second = two_steps("algorithm.kl_coef=0.1", "auxiliary.e=entropy_penalty")
    batch = with_advantages(learner, second, 2)
    assert (batch.reference_logprobs[8:][second.mask[8:]] != 0).any()
    assert (batch.auxiliary["e"][8:][second.mask[8:]] > 0).all()
    assert learner.update(batch, step=2, updates=1).metrics["grad_norm"] > 0
