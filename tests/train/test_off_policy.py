"""`rl.staleness=1`: a step's responses come from the weights before the last update."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from tests.train.fakes import coin_run
from tests.train.test_stages import RL, resumed, weights_of, whole
from vexp.engine.hf import HF
from vexp.errors import CheckpointError, ConfigError
from vexp.spec.identity import training_id
from vexp.spec.resolve import resolve
from vexp.train import off_policy
from vexp.train.batch import update_plan
from vexp.train.checkpoint import State
from vexp.train.collect import collect, to_experience
from vexp.train.learner import make_learner
from vexp.train.manifest import FORMER
from vexp.train.step import with_advantages
from vexp.train.timing import Clock

STALE = (*RL, "rl.staleness=1")


def weights_now(learner):
    return {name: p.detach().clone() for name, p in learner.policy.named_parameters()}


def set_to(learner, weights):
    with torch.no_grad():
        for name, parameter in learner.policy.named_parameters():
            parameter.copy_(weights[name])


def test_every_step_learns_from_what_the_weights_before_the_last_update_said():
    """Against two learners, of which the second one only ever generates and observes."""
    run = coin_run(*STALE)
    learner, other = (make_learner(run, None, None, "cpu") for _ in range(2))
    history = [weights_now(learner)]
    cursor, updates = 0, 0
    for step in range(1, 5):
        set_to(other, history[max(0, step - 2)])
        collected = collect(run, other.policy, step=step, cursor=cursor, clock=Clock())
        batch = with_advantages(other, to_experience(run, other.policy, collected), step)
        updates += learner.update(batch, step=step, updates=updates).updates
        cursor = collected.cursor
        history.append(weights_now(learner))
    mine = make_learner(run, None, None, "cpu")
    state = State()
    late = off_policy.pending(mine, state, None)
    for number in range(1, 5):
        state, late = off_policy.off_policy_step(mine, state, late, Clock())
        found = weights_now(mine)
        assert all(torch.equal(found[name], history[number][name]) for name in found)
        assert any(not torch.equal(found[name], history[number - 1][name]) for name in found)
        assert all(torch.equal(late.former[name], history[number - 1][name]) for name in found)
    assert late.batch is None and (state.cursor, state.updates) == (cursor, updates)


def test_the_ratio_is_to_the_policy_that_generated():
    run = coin_run(*STALE)
    learner, state = make_learner(run, None, None, "cpu"), State()
    late = off_policy.pending(learner, state, None)
    sampled = copy.deepcopy(learner.policy)
    state, late = off_policy.off_policy_step(learner, state, late, Clock())
    batch = late.batch.experience
    rows = [row for update in update_plan(learner.run, batch) for part in update for row in part]
    part = batch.select(sorted(rows))
    with torch.no_grad():
        arguments = (part.prompts, part.tokens, part.mask, part.group, run.rollout.temperature)
        former, now = sampled(*arguments).logprobs, learner.policy(*arguments).logprobs
    assert (part.old_logprobs - former)[part.mask].abs().max() < 1e-6
    assert (part.old_logprobs - part.sampling_logprobs)[part.mask].abs().max() < 1e-5
    assert (part.old_logprobs - now)[part.mask].abs().max() > 1e-4
    state, late = off_policy.off_policy_step(learner, state, late, Clock())
    assert state.metrics["mismatch/max"] < 1e-5  # engine and trainer, of the same weights
    assert state.metrics["kl_sampling"] > 1e-8  # how far the policy has come since
    assert "clip_high" in state.metrics


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("experiment=dapo", "group_filter.max_batches=3"),
        ("group_filter=replay",),
        ("backbone.lora.rank=2",),
    ],
    ids=["grpo", "dynamic sampling", "replay", "lora"],
)
def test_stopped_and_resumed_equals_never_stopped(tmp_path, more):
    straight, one = whole(tmp_path, *STALE, *more)
    continued, first, second = resumed(tmp_path, *STALE, *more, stop_after=3)
    assert second.resumed_at == [3]
    assert weights_of(continued) == weights_of(straight)
    assert json.dumps(first.metrics + second.metrics) == json.dumps(one.metrics)
    state = (continued.checkpoint / "state.json").read_bytes()
    assert state == (straight.checkpoint / "state.json").read_bytes()
    assert not (straight.checkpoint / FORMER).exists()  # nothing comes after it


def test_killed_and_resumed_equals_never_stopped(tmp_path):
    straight, one = whole(tmp_path, *STALE)
    continued, first, second = resumed(tmp_path, *STALE, stop_after=3, crash=True)
    assert second.resumed_at == [2]
    assert weights_of(continued) == weights_of(straight)
    assert first.metrics[:2] + second.metrics == one.metrics
    synchronous, _ = whole(tmp_path / "synchronous", *RL)
    assert weights_of(synchronous) != weights_of(straight)


def test_a_checkpoint_without_the_former_weights_cannot_be_gone_on_from(tmp_path):
    run = coin_run(*STALE)
    learner = make_learner(run, None, None, "cpu")
    with pytest.raises(CheckpointError, match="before the last update"):
        off_policy.pending(learner, State(step=2), tmp_path)


def test_an_engine_that_supports_prefetch_is_told_before_the_update_what_it_will_be_asked(
    monkeypatch,
):
    """With the weights, prompts, keys and settings of the question that comes after the update."""
    told, asked = [], []

    def noted(into, policy, batch, ids, sampling):
        weight = policy.model.lm_head.weight.detach().clone()
        into.append((weight, batch.input_ids, list(ids), sampling))

    plain = HF.generate

    def generate(self, policy, batch, ids, sampling):
        noted(asked, policy, batch, ids, sampling)
        return plain(self, policy, batch, ids, sampling)

    monkeypatch.setattr(HF, "supports_prefetch", True)
    monkeypatch.setattr(HF, "prefetch", lambda self, *arguments: noted(told, *arguments))
    monkeypatch.setattr(HF, "generate", generate)
    more = ("rollout=noisy", "rollout.group_size=2", "rollout.midpoint=2")
    learner, state = make_learner(coin_run(*STALE, *more), None, None, "cpu"), State()
    late = off_policy.pending(learner, state, None)
    first, asked[:] = len(asked), []
    for _ in range(3):
        state, late = off_policy.off_policy_step(learner, state, late, Clock())
    assert first == 2 and len(told) == len(asked) == 6
    for one, other in zip(told, asked, strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
        assert one[2:] == other[2:]


def test_ids_stay_and_only_one_step_is_accepted():
    plain = training_id(resolve([]))
    assert training_id(resolve(["rl.staleness=0"])).hash == plain.hash
    assert "staleness" not in plain.inputs["rl"]
    assert training_id(resolve(["rl.staleness=1"])).hash != plain.hash
    with pytest.raises(ConfigError, match=r"rl\.staleness"):
        resolve(["rl.staleness=2"])
