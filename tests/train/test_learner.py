"""Updates of a real (tiny) policy."""

from __future__ import annotations

import pytest
import torch

from tests.train.fakes import SMALLEST
from vexp.errors import Diverged
from vexp.experience.batch import forward
from vexp.spec.resolve import resolve
from vexp.train.batch import several_updates, update_plan
from vexp.train.checkpoint import State
from vexp.train.collect import collect, to_experience
from vexp.train.learner import make_learner
from vexp.train.step import train_step, with_advantages
from vexp.train.timing import Clock

SMALL = (*SMALLEST, "stages=[rl]", "rl.learning_rate=1e-2", "rl.ramp_steps=0")


def learner_and_experience(*overrides, rewards="random"):
    """A fresh learner with the experience of one batch, under made-up rewards."""
    run = resolve([*SMALL, *overrides])
    learner = make_learner(run, None, None, "cpu")
    collected = collect(run, learner.policy, step=1, cursor=0, clock=Clock())
    experience = to_experience(run, learner.policy, collected)
    if rewards == "random":
        generator = torch.Generator().manual_seed(3)
        experience.rewards.copy_(torch.rand(len(experience), generator=generator))
    else:
        experience.rewards.copy_(torch.tensor(rewards))
    return learner, experience


def weights(learner):
    return torch.cat([p.detach().flatten() for p in learner.policy.parameters()])


def updated(*overrides, rewards="random"):
    learner, experience = learner_and_experience(*overrides, rewards=rewards)
    before = weights(learner)
    learned = learner.update(with_advantages(learner, experience, 1), step=1, updates=0)
    return learned, weights(learner) - before


@pytest.mark.parametrize("algorithm", ["grpo", "dapo", "dr_grpo", "gspo"])
@pytest.mark.parametrize("size", [1, 3, 6])
def test_micro_batches_do_not_change_the_gradient(algorithm, size):
    """A big step of AdamW would hide the gradient's size, so the norm is compared as well."""
    whole, change = updated(f"algorithm={algorithm}", "compute.micro_batch_size=64")
    split, split_change = updated(f"algorithm={algorithm}", f"compute.micro_batch_size={size}")
    assert split.metrics["grad_norm"] == pytest.approx(whole.metrics["grad_norm"], rel=1e-4)
    assert split.metrics["loss"] == pytest.approx(whole.metrics["loss"], abs=1e-6)
    cosine = torch.nn.functional.cosine_similarity(split_change, change, dim=0)
    assert cosine > 0.999


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("size", [5, 64])
def test_the_first_updates_ratio_is_one(temperature, size):
    learner, experience = learner_and_experience(
        f"rollout.temperature={temperature}",
        "rl.prompts_per_update=2",
        f"compute.micro_batch_size={size}",
    )
    batch = with_advantages(learner, experience, 1)
    assert [sum(map(len, update)) for update in update_plan(learner.run, batch)] == [8, 8]
    for rows in (rows for update in update_plan(learner.run, batch) for rows in update):
        part = batch.select(rows)
        now = forward(learner.policy, part, temperature).logprobs
        ratio = (now - part.old_logprobs)[part.mask].exp()
        torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-6, rtol=0)
        sampled = (now - part.sampling_logprobs)[part.mask].exp()  # float noise of the decoder
        torch.testing.assert_close(sampled, torch.ones_like(ratio), atol=5e-6, rtol=0)


def test_one_update_per_batch_needs_no_pass_and_equals_one_with_old_logprobs():
    learner, experience = learner_and_experience("algorithm=dapo")
    assert with_advantages(learner, experience, 1).old_logprobs is None
    single, change = updated("algorithm=dapo")
    assert single.updates == 1
    assert single.metrics["clip_low"] == single.metrics["clip_high"] == 0.0
    twice, twice_change = updated("algorithm=dapo", "rl.epochs_per_step=2")
    assert twice.updates == 2
    assert twice.metrics["clip_low"] + twice.metrics["clip_high"] > 0
    assert twice.metrics["kl_sampling"] > single.metrics["kl_sampling"]
    assert not torch.equal(change, twice_change)


@pytest.mark.parametrize(
    ("overrides", "several"),
    [
        ((), False),
        (("rl.prompts_per_update=4",), False),
        (("rl.prompts_per_update=2",), True),
        (("rl.epochs_per_step=2",), True),
    ],
)
def test_old_logprobs_are_needed_only_for_several_updates(overrides, several):
    assert several_updates(resolve([*SMALL, *overrides])) is several


def test_mini_batches_are_updates_of_their_own():
    learned, _ = updated("rl.prompts_per_update=1", "rl.epochs_per_step=2")
    assert learned.updates == 8


def test_groups_without_spread_add_nothing_but_count_in_the_mean():
    """Their rows are left out of the pass; the loss is still averaged over all groups."""
    one_group = [0.0, 1.0, 1.0, 0.0] + [0.5] * 12
    learned, _ = updated("algorithm=dapo", rewards=one_group)
    learner, experience = learner_and_experience("algorithm=dapo", rewards=one_group)
    alone = experience.select(range(4))
    by_itself = learner.update(with_advantages(learner, alone, 1), step=1, updates=0)
    tokens, all_tokens = alone.mask.sum(), experience.mask.sum()
    assert learned.metrics["grad_norm"] == pytest.approx(
        by_itself.metrics["grad_norm"] * float(tokens / all_tokens), rel=1e-4
    )


def test_with_nothing_to_learn_the_weights_stay():
    learned, change = updated("algorithm=dapo", rewards=[0.5] * 16)
    assert learned.updates == 0
    assert learned.metrics == {}
    assert (change == 0).all()


def test_rows_without_an_outcome_are_left_out_of_both_passes():
    run = ("algorithm=dapo", "rl.epochs_per_step=2")
    learner, experience = learner_and_experience(*run, rewards=[0.5] * 4 + [0.0, 1.0] * 6)
    batch = with_advantages(learner, experience, 1)
    assert update_plan(learner.run, batch) == [[list(range(4, 16))]]
    assert (batch.old_logprobs[:4] == 0).all()
    assert (batch.weights[:4].sum(1) > 0).all()


def test_the_kl_acts_even_where_nothing_is_to_be_learned():
    learned, _ = updated("algorithm=grpo", "algorithm.kl_coef=0.1", rewards=[0.5] * 16)
    assert learned.updates == 1
    assert learned.metrics["kl_reference"] == pytest.approx(0, abs=1e-9)


def test_the_reference_is_loaded_only_when_needed_and_does_not_move():
    learner, experience = learner_and_experience("algorithm=grpo", "algorithm.kl_coef=0.1")
    before = weights(learner)
    learner.update(with_advantages(learner, experience, 1), step=1, updates=0)
    kept = torch.cat([p.flatten() for p in learner.reference.parameters()])
    assert kept.equal(before)
    assert not weights(learner).equal(before)
    assert learner_and_experience("algorithm=dapo")[0].reference is None


def test_a_step_towards_rewarded_responses_makes_them_likelier():
    learner, experience = learner_and_experience("algorithm=dr_grpo", "rl.learning_rate=1e-4")
    batch = with_advantages(learner, experience, 1)
    learner.update(batch, step=1, updates=0)
    seen = batch
    with torch.no_grad():
        now = forward(learner.policy, seen, 1.0).logprobs
    gain = ((now - seen.sampling_logprobs) * seen.mask).sum(1)
    better = seen.rewards > seen.rewards.mean()
    assert gain[better].mean() > gain[~better].mean()


def test_weights_that_are_no_numbers_stop_the_run_and_name_the_step():
    learner, experience = learner_and_experience("algorithm=dapo")
    with torch.no_grad():
        learner.policy.model.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(Diverged, match="diverged") as caught:
        learner.update(with_advantages(learner, experience, 1), step=17, updates=0)
    assert "step 17" in str(caught.value)


def test_a_step_returns_its_metrics_and_moves_the_cursor():
    learner, _ = learner_and_experience("rl.prompts_per_update=2")
    clock = Clock()
    state = train_step(learner, State(), clock)
    assert state.step == 1
    assert state.cursor == 4
    assert set(clock.row()) == {"generate_s", "score_s", "update_s", "total_s"}
    expected = {"reward", "reward/accuracy", "reward/format", "accuracy", "format"}
    expected |= {"response_length", "truncation_rate", "frac_zero_std", "groups_kept"}
    expected |= {"groups_generated", "verifier/timeout", "verifier/bad_gold", "updates"}
    expected |= {"verifier/unreadable", "verifier/no_answer"}
    assert expected <= set(state.metrics)
    assert not any(name.endswith("_s") or "time" in name.split("/")[0] for name in state.metrics)


def test_entropy_is_supplied_and_logged_when_a_component_needs_it(registry):
    import dataclasses

    from vexp.credit.uniform import Uniform
    from vexp.train import metrics

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Curious(Uniform):
        name = "curious"
        needs = ("entropy",)

    learner, experience = learner_and_experience()
    run = dataclasses.replace(learner.run, credit=Curious())
    seen = with_advantages(dataclasses.replace(learner, run=run), experience, 1)
    assert (seen.entropy[seen.mask] > 0).all()
    assert 0 < metrics.of_experience(run, seen)["entropy"] < 7
    assert metrics.of_experience(learner.run, experience) == {}
