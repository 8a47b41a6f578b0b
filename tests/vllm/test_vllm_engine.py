"""The engine `vllm` with vLLM itself: the same tokens and log-probs as `hf`, in float32 on the CPU.

vLLM starts once per model, so tests of one model stand together.
"""

from __future__ import annotations

import dataclasses
import math
from unittest import mock

import pytest
import torch
from PIL import Image

from tests.tiny import PROMPT, item, ragged_items
from vexp.backbone import _twin_tiles
from vexp.backbone.tiny_smolvlm import TinySmolVLM
from vexp.engine.base import Sampling
from vexp.engine.hf import HF
from vexp.engine.vllm import VLLM
from vexp.errors import ConfigError, DataError, EngineFailed, ProcessLost
from vexp.policy import lora
from vexp.policy.options import Lora
from vexp.policy.policy import Reading
from vexp.registry import REGISTRY
from vexp.spec.resolve import resolve
from vexp.train.checkpoint import State
from vexp.train.collect import collect
from vexp.train.learner import make_learner
from vexp.train.step import train_step
from vexp.train.timing import Clock

ENGINE = VLLM(max_length=512, cache_gb=0.2, max_sequences=256)
IDS = ["a", "b", "c", "d"]
RUN = (
    "stages=[rl]",
    "rl.prompts_per_step=4",
    "rollout.group_size=3",
    "compute.device=cpu",
    "compute.threads=1",
)
SMALL = ("engine.max_length=512", "engine.cache_gb=0.2", "engine.max_sequences=256")


def fresh(name: str = "tiny_qwen2_5_vl", **fields):
    return REGISTRY.get("backbone", name)(**fields).load()


def both(policy, items, ids=None, **settings):
    batch = policy.encode(items, PROMPT)
    sampling = Sampling(**({"group_size": 3, "max_response_length": 10} | settings))
    ids = ids or IDS[: len(items)]
    return HF().generate(policy, batch, ids, sampling), ENGINE.generate(
        policy, batch, ids, sampling
    )


def alike(one, other):
    assert torch.equal(one.tokens, other.tokens)
    assert torch.equal(one.mask, other.mask)
    assert torch.equal(one.finished, other.finished)
    assert (one.logprobs - other.logprobs).abs().max() < 1e-5


def ends_early(policy, level: float = 3.5):
    """Make the end of the sequence a likely token everywhere, so that lengths differ.

    Its output weights are such that its logit is `level` at states the policy comes through.
    """
    batch = policy.encode(ragged_items(), PROMPT)
    sampling = Sampling(group_size=8, max_response_length=12, ignore_eos=True)
    found = HF().generate(policy, batch, IDS, sampling)
    prompt = torch.arange(4).repeat_interleave(8)
    with torch.no_grad():
        seen = policy(batch, found.tokens, found.mask, prompt, reading=Reading(hidden=True))
        policy.model.lm_head.weight.mul_(0.5)
        inverse = torch.linalg.pinv(seen.hidden, rtol=1e-2)
        policy.model.lm_head.weight[policy.eos_id] = level * inverse.sum(1)
    return policy


def of_every_shape():
    """Prompts with images of one tile and of several, a black one, and one without any."""
    black = dataclasses.replace(item(5), image=Image.new("RGB", (56, 56)))
    return [*ragged_items(), item(4, size=(112, 28)), black]


def tied(policy):
    """The policy with one matrix for tokens that come in and that go out."""
    policy.model.config.tie_word_embeddings = True
    policy.model.tie_weights()
    assert policy.model.lm_head.weight is policy.model.get_input_embeddings().weight
    policy.model.lm_head.weight.data.mul_(0.1)  # at full size, a token is followed by itself
    return policy


def fine_smolvlm():
    """A twin whose tiles have as many patches as SmolVLM2's: places of patches must not be rounded.

    Images have one tile, so that prompts stay short.
    """
    with mock.patch.object(_twin_tiles, "MERGE", 3):
        return FineSmolVLM(tiles_per_side=1).load()


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineSmolVLM(TinySmolVLM):
    tile = 54
    patch = 2


FAMILIES = {
    "qwen2_vl": lambda: tied(fresh("tiny_qwen2_vl")),
    "qwen3_vl": lambda: tied(fresh("tiny_qwen3_vl")),
    "internvl": lambda: fresh("tiny_internvl"),
    "smolvlm": lambda: fresh("tiny_smolvlm"),
    "smolvlm, 27 patches a side": lambda: tied(fine_smolvlm()),
    "qwen2_5_vl": fresh,  # last: the tests below have this one, too
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_answers_as_hf_does(family):
    policy = FAMILIES[family]()
    items, ids = of_every_shape(), list("abcdef")
    alike(*both(policy, items, ids, greedy=True, group_size=1, max_response_length=24))
    ends_early(policy)
    one, other = both(policy, items, ids, temperature=0.7, top_p=0.9, seed=3)
    alike(one, other)
    assert len(set(one.mask.sum(1).tolist())) > 1
    with torch.no_grad():  # new weights of every kind, the vision tower's too
        for number, parameter in enumerate(policy.model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.mul_(1 + 0.1 * noise)
    changed, synced = both(policy, items, ids, temperature=0.7, top_p=0.9, seed=3)
    alike(changed, synced)
    assert not torch.equal(one.tokens[:, :1], changed.tokens[:, :1])


def test_a_rows_tokens_do_not_depend_on_the_batch_and_places_go_on():
    policy = fresh()
    whole = both(policy, ragged_items(), group_size=4)[1]
    for prompt in range(4):
        alone = both(policy, [ragged_items()[prompt]], [IDS[prompt]], group_size=2, first=2)[1]
        width = alone.tokens.shape[1]
        assert torch.equal(whole.tokens[4 * prompt + 2 : 4 * prompt + 4, :width], alone.tokens)


def test_ignoring_the_end_fills_every_response():
    one, other = both(ends_early(fresh(), 8.0), [item(0), item(1)], ignore_eos=True)
    alike(one, other)
    assert other.mask.shape == (6, 10)
    assert other.mask.all()
    assert not other.finished.any()


@pytest.mark.parametrize(
    "more",
    [
        ["rollout=plain"],
        ["rollout=noisy", "rollout.distortion=gaussian_noise"],
        ["rollout=rethink"],
        ["group_filter=dynamic_sampling", "group_filter.max_batches=2"],
    ],
    ids=lambda more: more[0].split("=")[1],
)
def test_rollout_variants_give_the_same_batches(more):
    found = {}
    for engine in (["engine=hf"], ["engine=vllm", *SMALL]):
        run = resolve([*RUN, *more, *engine])
        learner = make_learner(run, None, None, "cpu")
        ends_early(learner.policy)
        batches = collect(run, learner.policy, step=1, cursor=0, clock=Clock()).batches
        found[run.engine.name] = [batch.generated for batch in batches]
    assert len(found["hf"]) == len(found["vllm"])
    for one, other in zip(found["hf"], found["vllm"], strict=True):
        alike(one, other)


def test_after_each_of_twenty_updates_the_engine_has_the_trainers_weights():
    """`mismatch/max` compares the engine's log-probs with the trainer's before each update.

    The reward is how short a response is, so that a policy without skill has something to learn.
    """
    more = ["reward.terms.short={name:overlong,buffer:10}", "rollout.max_response_length=10"]
    run = resolve([*RUN, *more, "engine=vllm", *SMALL, "rl.learning_rate=1e-3", "rl.steps=20"])
    learner, state = make_learner(run, None, None, "cpu"), State()
    ends_early(learner.policy)
    weight = learner.policy.model.lm_head.weight
    for _ in range(20):
        before = weight.detach().clone()
        state = train_step(learner, state, Clock())
        assert not torch.equal(weight, before)
        assert state.metrics["mismatch/max"] < 1e-5
        assert state.metrics["mismatch/ess"] == pytest.approx(1.0, abs=1e-5)
    batch = learner.policy.encode(ragged_items(), PROMPT)
    sampling = Sampling(group_size=3, max_response_length=10)
    found = ENGINE.generate(learner.policy, batch, IDS, sampling)  # after the last one, too
    with torch.no_grad():
        rows = torch.arange(4).repeat_interleave(3)
        trainers = learner.policy(batch, found.tokens, found.mask, rows).logprobs
    assert (found.logprobs - trainers).abs().max() < 1e-5


def test_adapters_reach_the_engine_merged_into_the_weights():
    """vLLM has no adapters: what it serves is the model with their sum in it, after each change."""
    policy = fresh()
    plain = both(policy, ragged_items())[1]
    lora.attach(policy, Lora(rank=3, alpha=6), seed=5)
    alike(both(policy, ragged_items())[1], plain)  # they start at the model as it is
    for number in (1, 2):
        generator = torch.Generator().manual_seed(number)
        for name, parameter in policy.named_parameters():
            if ".lora_" in name:
                parameter.data.normal_(0.0, 0.05, generator=generator)
        one, other = both(policy, ragged_items())
        alike(one, other)
        assert not torch.equal(other.tokens, plain.tokens)


def test_training_with_adapters_keeps_engine_and_trainer_together():
    more = ["backbone.lora.rank=3", "rl.learning_rate=1e-2", "rl.steps=3"]
    more += ["reward.terms.short={name:overlong,buffer:10}", "rollout.max_response_length=10"]
    run = resolve([*RUN, "engine=vllm", *SMALL, *more])
    learner, state = make_learner(run, None, None, "cpu"), State()
    ends_early(learner.policy)
    for _ in range(3):
        before = {name: w.clone() for name, w in lora.adapters(learner.policy.model).items()}
        state = train_step(learner, state, Clock())
        after = lora.adapters(learner.policy.model)
        assert any(not torch.equal(before[name], after[name]) for name in after)
        assert state.metrics["mismatch/max"] < 1e-5


@pytest.mark.parametrize("engine", [HF(), ENGINE], ids=lambda engine: engine.name)
def test_banned_tokens_never_appear_in_a_hundred_thousand(engine):
    policy = fresh()
    with torch.no_grad():
        image = policy.model.config.image_token_id
        for hidden in (image, policy.pad_id, len(policy.banned) - 1):
            policy.model.lm_head.weight[hidden] *= 30
    batch = policy.encode([item(0), item(1)], PROMPT)
    sampling = Sampling(group_size=400, max_response_length=128, ignore_eos=True)
    found = engine.generate(policy, batch, ["a", "b"], sampling)
    assert int(found.mask.sum()) >= 100_000
    assert not policy.banned[found.tokens[found.mask]].any()
    assert found.logprobs.isfinite().all()


def test_a_prompt_that_is_too_long_is_named():
    policy = fresh()
    batch = policy.encode([item(0), item(7, words=600)], PROMPT)
    with pytest.raises(DataError, match="test/000007") as caught:
        ENGINE.generate(policy, batch, ["a", "b"], Sampling(group_size=1, max_response_length=8))
    assert "engine.max_length" in str(caught.value)


def test_a_head_size_without_a_kernel_is_refused():
    policy = fresh(hidden_size=64)  # heads of size 16
    with pytest.raises(ConfigError, match="heads of size 16") as caught:
        both(policy, [item(0)])
    assert "32" in str(caught.value)


def test_a_family_that_is_not_served_is_refused():
    policy = fresh("tiny_mllama")
    with pytest.raises(ConfigError, match="does not serve models of the family 'mllama'"):
        both(policy, [item(0)])


def test_an_engine_that_breaks_down_ends_the_step_and_the_next_one_is_new(monkeypatch):
    from vexp.engine import _vllm

    policy = fresh()
    alike(*both(policy, [item(0)]))

    def broken(*arguments):
        raise RuntimeError("the kernel is gone")

    monkeypatch.setattr(_vllm._live.server.llm.llm_engine, "step", broken)
    with pytest.raises(EngineFailed, match="the kernel is gone") as caught:
        both(policy, [item(0)])
    assert "last checkpoint" in str(caught.value)
    assert _vllm._live is None
    alike(*both(policy, [item(0)]))


def test_numbers_and_threads_of_the_process_stay_as_they_were():
    policy = fresh()
    threads, numbers = torch.set_num_threads, torch.get_rng_state()
    both(policy, [item(0)])
    assert torch.set_num_threads is threads
    assert torch.equal(torch.get_rng_state(), numbers)
    assert math.isfinite(float(torch.rand(())))


def few_tokens(policy, allowed):
    """The policy with all tokens but some banned; the engine starts anew for it."""
    policy.banned.fill_(True)
    policy.banned[allowed] = False
    return policy


@pytest.mark.parametrize("engine", [HF(), ENGINE], ids=lambda engine: engine.name)
def test_frequencies_are_those_of_the_exact_distribution(engine):
    """Chi-square over a vocabulary of six, at a temperature, for one prompt with an image."""
    allowed, count, temperature = [5, 40, 77, 130, 200], 3000, 1.3
    policy = fresh()
    policy = few_tokens(policy, [*allowed, policy.eos_id])
    with torch.no_grad():  # nearer to uniform, so that every token is expected often enough
        policy.model.lm_head.weight.mul_(0.5)
    batch = policy.encode([item(0)], PROMPT)
    sampling = Sampling(group_size=count, max_response_length=1, temperature=temperature)
    drawn = engine.generate(policy, batch, ["a"], sampling).tokens[:, 0]
    tokens = torch.tensor([[token] for token in (*allowed, policy.eos_id)])
    with torch.no_grad():
        exact = policy(
            batch, tokens, torch.ones_like(tokens, dtype=torch.bool),
            torch.zeros(6, dtype=torch.long), temperature,
        ).logprobs[:, 0].exp()  # fmt: skip
    assert float(exact.sum()) == pytest.approx(1.0, abs=1e-5)
    counts = torch.tensor([int((drawn == int(token)).sum()) for token in tokens])
    assert int(counts.sum()) == count
    expected = exact.double() * count
    assert float(expected.min()) > 20
    assert float(((counts - expected) ** 2 / expected).sum()) < 20.52  # 0.999, 5 degrees


def test_a_batch_that_is_broken_off_leaves_nothing_behind(monkeypatch):
    """Ctrl-C in the middle of a batch: the next one must not meet the requests of this one."""
    from vexp.engine import _vllm

    policy = fresh()
    alike(*both(policy, [item(0)]))

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(_vllm._live.server.llm.llm_engine, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        both(policy, [item(0)])
    alike(*both(policy, [item(1)], greedy=True))


def test_what_another_asks_to_stop_with_is_no_breakdown(monkeypatch):
    from vexp.engine import _vllm

    policy = fresh()
    alike(*both(policy, [item(0)]))

    def lost(*arguments):
        raise ProcessLost("another process of this run is gone")

    monkeypatch.setattr(_vllm._live.server.llm.llm_engine, "step", lost)
    with pytest.raises(ProcessLost):
        both(policy, [item(0)])


@pytest.mark.parametrize("cache_gb", [0.001, 1e-7], ids=["too few blocks", "no block"])
def test_too_little_memory_is_said_with_its_remedy(cache_gb):
    policy = fresh()
    engine = VLLM(max_length=16_384, cache_gb=cache_gb)
    sampling = Sampling(group_size=1, max_response_length=4)
    with pytest.raises(ConfigError, match="too little memory") as caught:
        engine.generate(policy, policy.encode([item(0)], PROMPT), ["a"], sampling)
    assert "engine.cache_gb" in str(caught.value)
    assert "gpu_memory_utilization" not in str(caught.value)
    alike(*both(policy, [item(0)]))  # what the refused one had begun is cleared away
