"""Forced rethinking: who goes on, from which tokens, what is kept, and what training sees of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tests.train.fakes import Coin, coin_run
from vexp.engine.base import Generated
from vexp.engine.hf import HF
from vexp.errors import ConfigError
from vexp.experience.batch import forward
from vexp.response.format import answer_start, extract_answer
from vexp.rollout.rethink import Continuation, Rethink, SecondThought
from vexp.spec.resolve import resolve
from vexp.train import collect as collecting
from vexp.train import rethinking
from vexp.train.batch import update_plan
from vexp.train.checkpoint import State
from vexp.train.collect import collect, to_experience
from vexp.train.learner import make_learner
from vexp.train.step import train_step, with_advantages
from vexp.train.timing import Clock

TRIGGER = "\n\nWait"
TINY = (
    "stages=[rl]",
    "rollout=rethink",
    "rollout.prob=1.0",
    "rollout.cut_answer=0.5",
    "rollout.room=3",
    "rollout.min_length=1",
    "rollout.max_response_length=40",
    "rollout.max_per_prompt=2",
    f"rollout.triggers=['{TRIGGER!s}', ' Wait?']",
    "rl.steps=3",
    "rl.learning_rate=1e-3",
    "rl.ramp_steps=0",
)
SIZE = 4


def method(**fields):
    return Rethink(max_response_length=64, **fields)


def noise(seed: int):
    return np.random.Generator(np.random.Philox(key=seed))


def test_a_second_thought_has_the_stated_probabilities():
    rollout = method(prob=0.65, cut_answer=0.25, triggers=("a", "b", "c"))
    found = [rollout.second_thought(noise(seed)) for seed in range(4000)]
    taken = [thought for thought in found if thought is not None]
    assert len(taken) / 4000 == pytest.approx(0.65, abs=0.03)
    assert sum(thought.cut_answer for thought in taken) / len(taken) == pytest.approx(
        0.25, abs=0.03
    )
    for text in "abc":
        share = sum(thought.trigger == text for thought in taken) / len(taken)
        assert share == pytest.approx(1 / 3, abs=0.03)
    # Each choice has a number of its own: settings of one do not move another.
    other = dataclasses.replace(rollout, cut_answer=1.0)
    assert [other.second_thought(noise(seed)).trigger for seed in range(20) if found[seed]] == [
        thought.trigger for thought in found[:20] if thought
    ]


def test_certainly_and_never():
    assert all(method(prob=1.0).second_thought(noise(seed)) for seed in range(200))
    assert not any(method(prob=0.0).second_thought(noise(seed)) for seed in range(200))


GOOD = Continuation(text=" so it is \\boxed{3}", length=10, finished=True, correct=True)


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, True),
        ({"correct": False}, False),
        ({"finished": False}, False),
        ({"length": 4}, False),
        ({"length": 5}, True),
        ({"length": 20}, True),
        ({"length": 21}, False),
        ({"text": "Wait, no. wait a moment, or"}, True),  # two, and the trigger's own
        ({"text": "Wait, no. wait a moment. Alternatively, wait, no"}, False),
        ({"text": "await, awaiting"}, True),
    ],
)
def test_what_is_kept(changes, kept):
    rollout = method(min_length=5, max_length=20, max_hesitations=4)
    assert rollout.keeps(dataclasses.replace(GOOD, **changes)) is kept


def test_wrong_ones_are_kept_where_that_is_asked_for():
    wrong = dataclasses.replace(GOOD, correct=False)
    assert method(keep_only_correct=False).keeps(wrong)
    assert not method(keep_only_correct=False).keeps(dataclasses.replace(wrong, finished=False))


@pytest.mark.parametrize(
    ("text", "before"),
    [
        ("<think> 3 </think> \\boxed{3}", "<think> 3 </think> "),
        ("\\boxed{1} or \\boxed{2}.", "\\boxed{1} or "),
        ("so <answer> 4 </answer>", "so "),
        ("a <answer> 1 </answer> b <answer> 2 </answer>", "a <answer> 1 </answer> b "),
        ("it is\nAnswer: 4", "it is\n"),
        ("Answer: 4", ""),
    ],
)
def test_where_the_answer_begins(text, before):
    assert text[: answer_start(text)] == before
    assert extract_answer(text) is not None


@pytest.mark.parametrize("text", ["", "seven", "\\boxed{ }", "\\boxed{3", "<answer> 3"])
def test_a_text_without_an_answer_has_no_beginning_of_one(text):
    assert answer_start(text) is None


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["rollout.triggers=[]"], "no text to rethink after"),
        (["rollout.triggers=['']"], "no text to rethink after"),
        (["rollout.room=24"], "leaves 24 tokens"),
        (["rollout.min_length=9", "rollout.max_length=8"], "longest continuation"),
    ],
)
def test_settings_that_could_not_work_are_refused(overrides, words):
    with pytest.raises(ConfigError, match=words):
        resolve(["rollout=rethink", "rollout.max_response_length=24", *overrides])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finishing(HF):
    """The real engine, but every response ends by itself after 4 to 7 tokens."""

    def generate(self, policy, prompts, item_ids, sampling):
        found = super().generate(policy, prompts, item_ids, sampling)
        tokens, mask, logprobs = found.tokens.clone(), found.mask.clone(), found.logprobs.clone()
        for row in range(len(tokens)):
            end = min(3 + int(tokens[row, 0]) % 4, tokens.shape[1] - 1, int(mask[row].sum()) - 1)
            tokens[row, end] = policy.eos_id
            tokens[row, end + 1 :] = policy.pad_id
            mask[row, end + 1 :] = False
            logprobs[row, end + 1 :] = 0.0
        return Generated(tokens, mask, logprobs, torch.ones_like(found.finished))


def finishing(*overrides):
    return dataclasses.replace(coin_run(*TINY, *overrides), engine=Finishing())


def batch_of(run, learner=None, step=1):
    learner = learner or make_learner(run, None, None, "cpu")
    found = collect(run, learner.policy, step=step, cursor=0, clock=Clock())
    return learner, found


def originals(run):
    """The same step without forced rethinking."""
    return dataclasses.replace(run, rollout=dataclasses.replace(run.rollout, prob=0.0))


def test_a_kept_response_is_old_text_trigger_and_continuation_in_the_old_place():
    run = finishing()
    learner, found = batch_of(run)
    _, before = batch_of(originals(run), learner)
    policy, old, new = learner.policy, before.batches[0], found.batches[0]
    assert before.batches[0].rethought.tried == 0
    assert new.rethought.tried == 4 * SIZE
    assert 0 < new.rethought.kept < new.rethought.tried
    triggers = [rethinking._tokens(policy, text) for text in run.rollout.triggers]
    replaced = 0
    for row, length in enumerate(old.lengths):
        was = old.generated.tokens[row, : length - 1].tolist()
        now = new.generated.tokens[row, : new.lengths[row]].tolist()
        if now == [*was, policy.eos_id]:
            assert new.rewards.accuracies[row] == old.rewards.accuracies[row]
            continue
        replaced += 1
        assert new.rewards.accuracies[row] == 1.0
        assert any(now[: length - 1 + len(t)] == [*was, *t] for t in triggers)
        assert now[-1] == policy.eos_id
        assert new.finished[row]
        assert len(now) <= run.rollout.max_response_length
    assert replaced == new.rethought.kept
    experience = to_experience(run, policy, found)
    assert len(experience) == 4 * SIZE
    assert experience.group.tolist() == [n // SIZE for n in range(4 * SIZE)]


def test_at_most_so_many_of_a_group_and_the_first_ones():
    run = finishing("rollout.max_per_prompt=1")
    learner, one = batch_of(run)
    every = dataclasses.replace(run, rollout=dataclasses.replace(run.rollout, max_per_prompt=SIZE))
    _, all_of_them = batch_of(every, learner)
    _, none = batch_of(originals(run), learner)

    def changed(found):
        texts = zip(
            found.batches[0].generated.tokens.tolist(),
            none.batches[0].generated.tokens.tolist(),
            strict=True,
        )
        return [row for row, (now, was) in enumerate(texts) if now[: len(was)] != was]

    good = changed(all_of_them)
    first = {row // SIZE: row for row in reversed(good)}
    assert len(good) > len(first)
    assert changed(one) == sorted(first.values())


def test_only_right_ones_replace_or_all():
    run = finishing("rollout.keep_only_correct=false", "rollout.max_per_prompt=4")
    _, found = batch_of(run)
    assert found.batches[0].rethought.kept == found.batches[0].rethought.tried == 4 * SIZE
    assert 0 < sum(found.batches[0].rewards.accuracies) < 4 * SIZE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stopping(Finishing):
    """Every response is short and has no end of its own."""

    def generate(self, policy, prompts, item_ids, sampling):
        found = super().generate(policy, prompts, item_ids, sampling)
        return dataclasses.replace(found, finished=torch.zeros_like(found.finished))


def test_responses_that_did_not_end_by_themselves_do_not_go_on():
    _, found = batch_of(dataclasses.replace(finishing(), engine=Stopping()))
    assert found.batches[0].rethought.tried == 0


def test_without_room_nothing_goes_on():
    run = finishing("rollout.room=39")
    assert batch_of(run)[1].batches[0].rethought.tried == 0


def test_choices_and_noise_are_those_of_the_item_and_place_alone():
    """Each item alone, in another order and beside others: the same responses."""
    run = finishing("rollout.prob=0.6")
    learner = make_learner(run, None, None, "cpu")
    items = [run.mix.draw(n, seed=run.seed) for n in range(4)]

    def responses(order):
        picked = [items[n] for n in order]
        keys = [item.id for item in picked]
        prompts, generated = collecting.generate(run, learner.policy, picked, keys, 2)
        scored = collecting.judged(run, learner.policy, picked, generated)
        found = rethinking.rethought(
            run, run.rollout, learner.policy, keys, prompts, generated, scored, 2, Clock()
        )
        texts = found.scored.texts
        return {key: texts[n * SIZE : (n + 1) * SIZE] for n, key in enumerate(keys)}, found.kept

    everything, kept = responses([0, 1, 2, 3])
    assert kept > 0
    assert responses([3, 1, 0, 2])[0] == everything
    for n in range(4):
        alone = responses([n])[0]
        assert alone[items[n].id] == everything[items[n].id]


def test_the_reported_logprobs_are_of_what_was_sampled_from():
    """Old tokens at 1, the continuation at 0.5, the trigger as the policy has it."""
    run = finishing("rollout.continuation_temperature=0.5", "rollout.keep_only_correct=false")
    learner, found = batch_of(run)
    _, before = batch_of(originals(run), learner)
    experience = to_experience(run, learner.policy, found)
    with torch.no_grad():
        plain = forward(learner.policy, experience, 1.0).logprobs
        sharp = forward(learner.policy, experience, 0.5).logprobs
    triggers = [rethinking._tokens(learner.policy, text) for text in run.rollout.triggers]
    seen = 0
    for row, length in enumerate(before.batches[0].lengths):
        end, old = found.batches[0].lengths[row], length - 1
        tokens = experience.tokens[row, :end].tolist()
        mine = [t for t in triggers if tokens[old : old + len(t)] == t]
        expected = plain[row].clone()
        if mine:
            start = old + len(max(mine, key=len))
            expected[start:] = sharp[row, start:]
            seen += 1
        # The end that `Finishing` writes was not sampled; all others were.
        expected[end - 1] = experience.sampling_logprobs[row, end - 1]
        torch.testing.assert_close(
            experience.sampling_logprobs[row, :end], expected[:end], atol=5e-5, rtol=0
        )
    assert seen == found.batches[0].rethought.kept == 8


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_first_ratio_is_one_for_every_token(epochs):
    run = finishing(f"rl.epochs_per_step={epochs}", "algorithm=dapo")
    learner, found = batch_of(run)
    assert found.batches[0].rethought.kept
    batch = with_advantages(learner, to_experience(run, learner.policy, found), 1)
    old = batch.old_logprobs
    if epochs == 1:
        assert old is None  # those of the one update itself
        return
    for update in update_plan(run, batch):
        for rows in update:
            part = batch.select(rows)
            now = forward(learner.policy, part, run.rollout.temperature).logprobs
            assert ((now - part.old_logprobs) * part.mask == 0).all()


@pytest.mark.parametrize("size", [64, 3])
def test_two_steps_of_a_real_policy(size):
    run = finishing(f"compute.micro_batch_size={size}")
    learner = make_learner(run, None, None, "cpu")
    state = State()
    for _ in range(2):
        state = train_step(learner, state, Clock())
        assert state.metrics["rethink/tried"] == 4 * SIZE
        assert 0 < state.metrics["rethink/kept"] <= 8
    assert state.metrics["grad_norm"] > 0


def test_the_answer_is_cut_off_between_tokens():
    run = resolve(["rollout=rethink"])
    policy = run.backbone.load(None, device="cpu")
    text = "<think> red 3 ünlü </think> \\boxed{7}"
    tokens, mask = policy.encode_responses([text], 99)
    tokens = tokens[mask].tolist()[:-1]
    kept = rethinking._old(policy, tokens, text, SecondThought("", True))
    assert rethinking._spelled(policy, kept) == "<think> red 3 ünlü </think>"
    assert rethinking._old(policy, tokens, text, SecondThought("", False)) == tokens
    # Within a character of several bytes, the character goes.
    short = "<think> red 3 "
    count = rethinking._tokens_within(policy, tokens, short + "ü")
    assert rethinking._spelled(policy, tokens[:count]) == short + "ü"
    count = rethinking._tokens_within(policy, tokens, short)
    assert rethinking._spelled(policy, tokens[:count]) == short.rstrip() + short[-1:]


def test_a_prompt_followed_by_tokens_is_the_prompt_with_a_response():
    """Next-token distributions after the longer prompts equal those of scoring the tokens."""
    run = coin_run(*TINY)
    policy = run.backbone.load(None, device="cpu")
    items = [run.mix.draw(n, seed=1) for n in range(3)]
    items[1] = dataclasses.replace(items[1], image=None, boxes=())
    prompts = policy.encode(items, run.prompt)
    begun = [
        rethinking._Begun(0, [40, 41, 42], [43], 5),
        rethinking._Begun(1, [], [50], 5),
        rethinking._Begun(2, [60, 61, 62, 63, 64], [65, 66], 5),
    ]
    longer = rethinking._followed(prompts, begun, policy.pad_id)
    tokens, mask = rethinking._padded([one.tokens for one in begun], policy.pad_id, policy.device)
    with torch.no_grad():
        found = policy.encode_prefix(longer).last_hidden
        prefix = policy.encode_prefix(prompts)
        own = policy._extend(prefix, tokens, mask, torch.arange(3), None)
    expected = own[torch.arange(3), mask.sum(dim=1) - 1]
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_plain_rollouts_say_nothing_of_it():
    run = coin_run("stages=[rl]")
    assert isinstance(run.verifier, Coin)
    learner = make_learner(run, None, None, "cpu")
    state = train_step(learner, State(), Clock())
    assert not [name for name in state.metrics if name.startswith("rethink")]
