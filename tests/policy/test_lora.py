"""Low-rank adapters: what learns, what is saved, what the reference is, and what is refused."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.backbone.plain import TWINS, twin
from tests.tiny import PROMPT, SMALL, fresh_policy, ragged_items, responses
from tests.train.fakes import Folder, coin_run
from tests.train.test_stages import RL, resumed, weights_of, whole
from vexp.errors import CheckpointError, ConfigError
from vexp.policy import lora
from vexp.policy.options import Lora
from vexp.spec.identity import training_id
from vexp.spec.resolve import resolve
from vexp.train.checkpoint import State
from vexp.train.learner import load_trained, make_learner
from vexp.train.manifest import OPTIMIZER
from vexp.train.stages import train
from vexp.train.step import train_step
from vexp.train.timing import Clock

ADAPTED = "backbone.lora.rank=3"
SETTINGS = Lora(rank=3, alpha=6)


def logprobs(policy):
    batch = policy.encode(ragged_items(), PROMPT)
    tokens, mask = responses(4, 5)
    return policy(batch, tokens, mask, torch.arange(4)).logprobs


def stirred(policy, seed=1):
    """Adapters as after some training: B is no longer 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in policy.named_parameters():
        if ".lora_" in name:
            parameter.data.normal_(0.0, 0.05, generator=generator)
    return policy


def test_training_starts_at_the_model_as_it_is():
    plain, adapted = fresh_policy(), fresh_policy()
    lora.attach(adapted, SETTINGS, seed=5)
    assert torch.equal(logprobs(adapted), logprobs(plain))
    learning = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert len(learning) == 2 * 7 * SMALL.layers
    assert all(".lora_" in name and ".visual." not in name for name in learning)


def test_first_weights_are_a_function_of_the_seed():
    found = []
    for seed in (5, 5, 6):
        torch.rand(seed)  # whatever was drawn before
        policy = fresh_policy()
        lora.attach(policy, SETTINGS, seed=seed)
        found.append(lora.adapters(policy.model))
    one, same, other = found
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_attaching_leaves_torchs_own_generator_alone():
    policy, before = fresh_policy(), torch.get_rng_state()
    lora.attach(policy, SETTINGS, seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_gradients_follow_from_those_of_the_whole_map():
    """W' = W + s B A, so dA = s B^T dW' and dB = s dW' A^T."""
    adapted, whole_model = fresh_policy(), fresh_policy()
    lora.attach(adapted, SETTINGS, seed=5)
    stirred(adapted)
    whole_model.model.load_state_dict(lora.merged(adapted.model))
    weight = torch.randn(4, 5, generator=torch.Generator().manual_seed(2))
    for policy in (adapted, whole_model):
        (logprobs(policy) * weight).sum().backward()
    full = dict(whole_model.model.named_parameters())
    own = dict(adapted.model.named_parameters())
    scale, seen = SETTINGS.alpha / SETTINGS.rank, 0
    for name, down in own.items():
        if ".lora_A." in name:
            up = own[name.replace(".lora_A.", ".lora_B.")]
            whole_grad = full[name.replace(".lora_A.default", "")].grad.double()
            expected_down = scale * up.detach().double().T @ whole_grad
            expected_up = scale * whole_grad @ down.detach().double().T
            for found, expected in ((down.grad, expected_down), (up.grad, expected_up)):
                error = (found.double() - expected).abs().max()
                assert error <= 1e-4 * expected.abs().max().clamp(min=1e-3), name
            seen += 1
    assert seen == 7 * SMALL.layers
    assert all(p.grad is None for name, p in own.items() if ".lora_" not in name)


@pytest.mark.parametrize("name", TWINS)
def test_a_saved_model_is_whole_without_its_adapters(name, tmp_path):
    policy = twin(name).load()
    lora.attach(policy, SETTINGS, seed=5)
    before = logprobs(stirred(policy))
    twin(name).load().save(tmp_path / "plain")
    policy.save(tmp_path / "adapted")
    files = [load_file(tmp_path / f / "model.safetensors") for f in ("plain", "adapted")]
    assert files[0].keys() == files[1].keys()
    assert any(not torch.equal(files[0][key], files[1][key]) for key in files[0])
    again = twin(name).load(tmp_path / "adapted")
    torch.testing.assert_close(logprobs(again), before, atol=1e-5, rtol=0)
    assert torch.equal(logprobs(policy), before)  # saving changes nothing


def test_the_reference_is_the_model_as_it_was_to_the_last_bit():
    run = coin_run(*RL, ADAPTED, "algorithm.kl_coef=0.1", "rl.learning_rate=1e-2")
    learner = make_learner(run, None, None, "cpu")
    train_step(learner, State(), Clock())
    plain = run.backbone.load()
    batch, (tokens, mask) = plain.encode(ragged_items(), PROMPT), responses(4, 5)
    arguments = (batch, tokens, mask, torch.arange(4))
    with torch.no_grad():
        expected = plain(*arguments).logprobs
        assert torch.equal(learner.reference(*arguments).logprobs, expected)
        assert not torch.equal(learner.policy(*arguments).logprobs, expected)
    assert isinstance(learner.reference, lora.Untrained)
    assert sum(p.requires_grad for p in learner.policy.parameters()) == 14 * run.backbone.layers


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path):
    overrides = (*RL, ADAPTED, "rl.learning_rate=1e-2")
    straight, one = whole(tmp_path, *overrides)
    continued, first, second = resumed(tmp_path, *overrides, stop_after=3)
    assert weights_of(continued) == weights_of(straight)
    assert json.dumps(first.metrics + second.metrics) == json.dumps(one.metrics)
    moments = load_file(straight.checkpoint / OPTIMIZER)
    assert moments
    assert all(".lora_" in name for name in moments)
    run = coin_run(*RL)
    before = run.backbone.load().model.state_dict()
    after = run.backbone.load(straight.model).model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.split(".")[-2] in SETTINGS.targets for name in changed)


def test_a_stage_starts_with_what_the_one_before_has_learned(tmp_path):
    steps = ("warm_start.steps=2", "warm_start.batch_size=4", "warm_start.learning_rate=1e-2")
    run = coin_run("stages=[warm_start]", *steps, ADAPTED)
    learned = train(run, Folder(tmp_path)).model
    saved = run.backbone.load(learned)
    assert not torch.equal(logprobs(saved), logprobs(run.backbone.load()))
    starts = load_trained(coin_run(*RL, ADAPTED), learned, None, "cpu", "rl")
    assert torch.equal(logprobs(starts), logprobs(saved))


def test_it_is_part_of_the_id_and_its_absence_is_not():
    plain = training_id(resolve([]))
    assert "lora" not in plain.inputs["backbone"]
    assert training_id(resolve(["backbone.lora.rank=0"])).hash == plain.hash
    ids = {training_id(resolve([ADAPTED, f"backbone.lora.alpha={a}"])).hash for a in (8, 16)}
    assert len(ids | {plain.hash}) == 3


def test_a_map_there_is_not_is_named():
    with pytest.raises(ConfigError, match="no linear map 'qkv'") as caught:
        lora.attach(fresh_policy(), Lora(rank=2, targets=("q_proj", "qkv")), seed=1)
    assert "q_proj" in str(caught.value)


def test_without_peft_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"install vexp\[lora\]"):
        lora.attach(fresh_policy(), SETTINGS, seed=1)


def test_tokens_that_would_not_learn_are_refused():
    with pytest.raises(ConfigError, match="adds a token, whose embedding LoRA leaves"):
        resolve(["experiment=faithful_mr1", ADAPTED])
    with pytest.raises(ConfigError, match="LoRA has no map to change"):
        resolve([ADAPTED, "backbone.lora.targets=[]"])


@pytest.mark.parametrize("damage", ["missing", "cut off", "other"])
def test_adapters_that_do_not_fit_are_refused(tmp_path, damage):
    run = coin_run(*RL, ADAPTED)
    folder = tmp_path / "model"
    policy = load_trained(run, None, None, "cpu", "rl")
    policy.save(folder)
    path = folder / lora.ADAPTER
    if damage == "missing":
        path.unlink()
    elif damage == "cut off":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        save_file({key: value[:1] for key, value in load_file(path).items()}, path)
    with pytest.raises(CheckpointError, match=r"adapters (cannot be read|are not those)"):
        load_trained(run, None, tmp_path, "cpu", "rl")
