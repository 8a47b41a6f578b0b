"""NoisyRollout: the sampler sees noise, training does not, and a group is one group."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from tests.train.fakes import Reader, SaysRight, Scripted, coin_run
from vexp.engine.base import Generated
from vexp.errors import ConfigError
from vexp.experience.batch import forward
from vexp.registry import REGISTRY
from vexp.spec.resolve import resolve
from vexp.train.batch import update_plan
from vexp.train.checkpoint import State
from vexp.train.collect import collect, to_experience
from vexp.train.learner import make_learner
from vexp.train.sampling import noisy as noisy_items
from vexp.train.sampling import side_by_side
from vexp.train.step import train_step, with_advantages
from vexp.train.timing import Clock

MODES = ("sigmoid", "power", "linear", "exponential")
TINY = (
    "stages=[rl]",
    "rollout=noisy",
    "rollout.group_size=3",
    "rollout.noisy_size=2",
    "rl.steps=60",
    "rl.learning_rate=1e-3",
    "rl.ramp_steps=0",
)
SIZE = 5


def rollout(**fields):
    return REGISTRY.get("rollout", "noisy")(**fields)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("steps", [60, 180])
def test_the_strength_falls_from_one_to_nothing(mode, steps):
    method = rollout(decay=mode)
    found = [method.strength(step, steps) for step in range(steps + 1)]
    assert found[0] == pytest.approx(1.0, abs=2e-3)
    assert found[-1] == pytest.approx(0.0, abs=1e-4)
    assert all(0 <= later <= earlier <= 1 for earlier, later in itertools.pairwise(found))


def test_the_sigmoid_is_the_formula():
    for step in (1, 20, 40, 60):
        plain = 1 - 1 / (1 + np.exp(-30 * (step / 60 - 40 / 60)))
        assert rollout().strength(step, 60) == pytest.approx(plain, abs=1e-12)
    assert rollout().strength(40, 60) == 0.5


def test_the_other_decays_are_their_formulas():
    assert rollout(decay="power", power=3.0).strength(30, 60) == 1 - 0.5**3
    assert rollout(decay="linear").strength(15, 60) == 0.75
    assert rollout(decay="exponential", base=0.5).strength(58, 60) == 0.75


@pytest.mark.parametrize("mode", MODES)
def test_a_run_of_one_step_does_not_overflow(mode):
    assert 0 <= rollout(decay=mode, steepness=1e3).strength(1, 1) <= 1


def test_the_noise_step_is_the_rounded_down_product():
    clean, noisy = rollout(group_size=6).draws(40, 60)
    assert (clean.count, clean.distortion) == (6, None)
    assert (noisy.count, noisy.distortion.step) == (6, 250)
    assert rollout(group_size=6).draws(60, 60)[1].distortion.step == 0


@pytest.mark.parametrize("name", REGISTRY.names("rollout"))
@pytest.mark.parametrize("fields", [{}, {"group_size": 3}])
def test_the_draws_of_every_method_make_up_the_group(name, fields):
    method = REGISTRY.get("rollout", name)(**fields)
    for step in (1, 30, 60):
        assert sum(draw.count for draw in method.draws(step, 60)) == method.responses_per_prompt


def test_sizes():
    assert rollout(group_size=6).responses_per_prompt == 12
    assert rollout(group_size=6, noisy_size=2).responses_per_prompt == 8


def test_one_clean_and_one_noisy_response_are_a_group():
    assert resolve(["rollout=noisy", "rollout.group_size=1"]).rollout.responses_per_prompt == 2


def test_noise_of_each_response_is_refused():
    with pytest.raises(ConfigError, match="sampled from one image"):
        resolve(
            ["rollout=noisy", "rollout.distortion=patch_black", "rollout.distortion.per=rollout"]
        )


def test_noise_is_a_function_of_seed_step_and_item():
    run = coin_run(*TINY)
    items = [run.mix.draw(n, seed=1) for n in range(3)]
    keys = [item.id for item in items]
    distortion = run.rollout.distortion

    def pixels(order, seed=1, step=1):
        picked = [items[n] for n in order]
        seen = noisy_items(picked, [keys[n] for n in order], distortion, seed=seed, step=step)
        return {item.id: item.image.tobytes() for item in seen}

    everything = pixels([0, 1, 2])
    assert pixels([2, 0, 1]) == everything
    assert pixels([1])[keys[1]] == everything[keys[1]]
    for other in (pixels([0, 1, 2], seed=2), pixels([0, 1, 2], step=2)):
        assert all(other[key] != everything[key] for key in keys)
    assert all(item.image.tobytes() != everything[item.id] for item in items)


def test_an_item_that_comes_twice_in_a_step_has_noise_of_its_own():
    run = coin_run(*TINY)
    item = run.mix.draw(0, seed=1)
    one, other = noisy_items([item] * 2, ["a", "a#2"], run.rollout.distortion, seed=1, step=1)
    assert one.image.tobytes() != other.image.tobytes()


def part(first, prompts, count, width):
    """Rows whose tokens say where they come from: 100 x prompt + place."""
    rows = torch.arange(prompts).repeat_interleave(count) * 100 + first
    rows += torch.arange(count).repeat(prompts)
    tokens = rows[:, None].expand(-1, width).clone()
    return Generated(tokens, tokens >= 0, -tokens.float(), rows % 2 == 0)


def test_groups_are_consecutive_clean_before_noisy_and_padded():
    joined = side_by_side([part(0, 2, 3, 4), part(3, 2, 2, 6)], 2, pad_id=9)
    assert joined.tokens[:, 0].tolist() == [0, 1, 2, 3, 4, 100, 101, 102, 103, 104]
    assert joined.finished.tolist() == [n % 2 == 0 for n in joined.tokens[:, 0].tolist()]
    assert joined.tokens.shape == joined.mask.shape == joined.logprobs.shape == (10, 6)
    clean = torch.tensor([0, 1, 2, 5, 6, 7])
    assert (joined.tokens[clean, 4:] == 9).all()
    assert not joined.mask[clean, 4:].any()
    assert (joined.logprobs[clean, 4:] == 0).all()
    assert joined.mask.sum() == 6 * 4 + 4 * 6


def test_one_draw_is_left_alone():
    only = part(0, 2, 3, 4)
    assert side_by_side([only], 2, pad_id=9) is only


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watched(Scripted):
    """Remembers how it was asked."""

    asked: list = dataclasses.field(default_factory=list)

    def generate(self, policy, prompts, item_ids, sampling):
        self.asked.append((len(prompts), sampling.group_size, sampling.first))
        return super().generate(policy, prompts, item_ids, sampling)


def test_rewards_filter_and_statistics_see_one_group():
    """Prompts with 2 of 3 clean and 0 or 2 of 2 noisy ones right."""
    run = resolve(["rollout=noisy", "rollout.group_size=3", "rollout.noisy_size=2",
                   "rl.prompts_per_step=2", "algorithm=dapo"])  # fmt: skip
    engine = Watched(right=(2, 3, 0, 2))
    run = dataclasses.replace(run, engine=engine, verifier=SaysRight())
    policy = Reader()
    found = collect(run, policy, step=1, cursor=0, clock=Clock())
    experience = to_experience(run, policy, found)
    assert engine.asked == [(2, 3, 0), (2, 2, 3)]
    assert experience.accuracies.tolist() == [1, 1, 0, 0, 0, 1, 1, 1, 1, 1]
    assert experience.group.tolist() == [0] * 5 + [1] * 5
    assert experience.place.tolist() == [0, 1, 2, 3, 4] * 2
    advantages = run.algorithm.advantages(experience.rewards, experience.group)
    rewards = np.array([0.9, 0.9, 0, 0, 0])
    expected = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-6)
    assert advantages.tolist() == pytest.approx([*expected, 0, 0, 0, 0, 0])
    assert experience.prompts.numbers == (0, 1)


def test_noisy_responses_are_no_copies_of_clean_ones():
    """Without any noise left, the two kinds differ only in their random numbers."""
    run = coin_run(
        *TINY, "rollout.group_size=4", "rollout.noisy_size=4", "rollout.distortion.step=0"
    )
    learner = make_learner(run, None, None, "cpu")
    found = collect(run, learner.policy, step=1, cursor=0, clock=Clock())
    tokens = to_experience(run, learner.policy, found).tokens.view(4, 8, -1)
    assert not tokens[:, :4].equal(tokens[:, 4:])


def test_all_logprobs_of_training_are_those_of_the_clean_image():
    run = coin_run(*TINY, "rl.epochs_per_step=2", "algorithm=dapo")
    learner = make_learner(run, None, None, "cpu")
    found = collect(run, learner.policy, step=1, cursor=0, clock=Clock())
    experience = to_experience(run, learner.policy, found)
    assert len(experience) == 4 * SIZE
    batch = with_advantages(learner, experience, 1)
    rows = sorted(
        row for update in update_plan(run, batch) for portion in update for row in portion
    )
    clean = [row for row in rows if row % SIZE < 3]
    noisy = [row for row in rows if row % SIZE >= 3]
    assert clean
    assert noisy
    plain = learner.policy.encode(experience.items, run.prompt)
    again = dataclasses.replace(experience, prompts=plain)
    with torch.no_grad():
        expected = forward(learner.policy, again, 1.0).logprobs
    torch.testing.assert_close(batch.old_logprobs[rows], expected[rows])
    sampled = (experience.sampling_logprobs - expected).abs().amax(dim=1)
    assert (sampled[clean] < 5e-6).all()
    assert (sampled[noisy] > 1e-4).any()


def test_the_sampler_reports_the_logprobs_of_the_noisy_image():
    run = coin_run(*TINY)
    learner = make_learner(run, None, None, "cpu")
    found = collect(run, learner.policy, step=1, cursor=0, clock=Clock())
    experience = to_experience(run, learner.policy, found)
    items = list(experience.items)
    distortion = run.rollout.draws(1, 60)[1].distortion
    seen = noisy_items(items, [i.id for i in items], distortion, seed=run.seed, step=1)
    again = dataclasses.replace(experience, prompts=learner.policy.encode(seen, run.prompt))
    with torch.no_grad():
        found = forward(learner.policy, again, 1.0).logprobs
    noisy = [row for row in range(len(experience)) if row % SIZE >= 3]
    torch.testing.assert_close(experience.sampling_logprobs[noisy], found[noisy], atol=5e-6, rtol=0)


@pytest.mark.parametrize("size", [64, 4])
def test_two_steps_of_a_real_policy(size):
    learner = make_learner(coin_run(*TINY, f"compute.micro_batch_size={size}"), None, None, "cpu")
    state = State()
    for _ in range(2):
        state = train_step(learner, state, Clock())
    assert state.step == 2
    assert state.updates == 2
    assert state.metrics["groups_generated"] == 4
    assert state.metrics["grad_norm"] > 0
    assert state.metrics["clip_low"] == state.metrics["clip_high"] == 0.0


def test_the_overlay_is_the_papers_setting():
    run = resolve(["experiment=noisy_rollout"])
    assert run.rollout.name == "noisy"
    assert run.rollout.distortion == REGISTRY.get("distortion", "diffusion_noise")(step=500)
    assert (run.rollout.decay, run.rollout.steepness, run.rollout.midpoint) == ("sigmoid", 30, 40)
    assert (run.algorithm.kl_coef, run.algorithm.aggregation) == (0.0, "token-mean")
