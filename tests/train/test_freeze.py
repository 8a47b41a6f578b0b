"""A frozen vision tower: its weights stay to the last bit, and everything else learns as before."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.probe.families import FAMILIES, fresh
from tests.train.fakes import Folder, coin_run
from tests.train.test_stages import RL, resumed, weights_of, whole
from vexp.errors import ConfigError
from vexp.spec.identity import stage_key, training_id
from vexp.spec.resolve import resolve
from vexp.spec.run import Optimization
from vexp.train.checkpoint import State
from vexp.train.learner import make_learner
from vexp.train.manifest import OPTIMIZER
from vexp.train.optimizer import freeze, make_optimizer
from vexp.train.stages import train
from vexp.train.step import train_step
from vexp.train.timing import Clock

FROZEN = "rl.freeze=[vision]"
UNCLIPPED = ("rl.max_grad_norm=null", "rl.weight_decay=0.1", "rl.ramp_steps=0")


def policy(run):
    return run.backbone.load(None, device="cpu")


def after_one_step(*overrides):
    learner = make_learner(coin_run(*RL, *UNCLIPPED, *overrides), None, None, "cpu")
    state = train_step(learner, State(), Clock())
    assert state.metrics["grad_norm"] > 0
    return learner, {name: p.detach() for name, p in learner.policy.named_parameters()}


def is_vision(name):
    return ".visual." in name


def moved(run, folder):
    """Names of the parameters that training changed."""
    after = dict(run.backbone.load(folder, device="cpu").named_parameters())
    before = dict(policy(run).named_parameters())
    return [name for name, value in before.items() if not value.equal(after[name])]


def test_the_rest_learns_as_if_nothing_were_frozen():
    """Without clipping, which looks at all gradients, one update of the rest is the same."""
    _, frozen = after_one_step(FROZEN)
    _, free = after_one_step()
    before = dict(policy(coin_run(*RL)).named_parameters())
    assert sum(map(is_vision, frozen)) > 10
    for name, value in frozen.items():
        if is_vision(name):
            assert value.equal(before[name])
        else:
            assert value.equal(free[name])
            assert not value.equal(before[name])
    assert any(not free[name].equal(before[name]) for name in free if is_vision(name))


def test_frozen_parameters_have_no_gradient_and_no_moments():
    learner, _ = after_one_step(FROZEN)
    named = dict(learner.policy.named_parameters())
    assert all(p.grad is None for name, p in named.items() if is_vision(name))
    held = {id(p) for group in learner.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for name, p in named.items() if not is_vision(name)}
    assert len(learner.optimizer.state) == len(held)


def test_the_norm_of_the_gradient_is_that_of_what_learns():
    learner = make_learner(coin_run(*RL, *UNCLIPPED, FROZEN), None, None, "cpu")
    gradients = []

    def seen(*_):
        gradients.extend(p.grad.clone() for p in learner.policy.parameters() if p.grad is not None)

    optimizer = getattr(learner.optimizer, "optimizer", learner.optimizer)
    optimizer.register_step_pre_hook(seen)
    state = train_step(learner, State(), Clock())
    assert all(p.grad is None for p in learner.policy.parameters())  # room for what comes next
    norm = torch.stack([g.double().square().sum() for g in gradients]).sum().sqrt()
    assert state.metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-5)


def test_the_forward_pass_of_a_frozen_tower_is_not_recorded():
    run = coin_run(*RL)
    model = policy(run)
    prompts = model.encode([run.mix.draw(0, seed=1)], run.prompt)
    seen = {}
    tower = model.model.get_encoder("image")
    tower.register_forward_hook(lambda *_: seen.update(saved=len(saved)))
    saved = []

    def recorded():
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
            output = model.encode_prefix(prompts)
        assert output.last_hidden.requires_grad  # the decoder still learns
        return seen["saved"]

    assert recorded() > 20
    freeze(model, ("vision",))
    # The embeddings of the prompt's tokens are looked up before the tower runs.
    assert recorded() <= 1


def test_whole_runs_leave_the_tower_alone_and_resume(tmp_path):
    overrides = (*RL, FROZEN, "rl.weight_decay=0.1")
    straight, one = whole(tmp_path, *overrides)
    continued, first, second = resumed(tmp_path, *overrides, stop_after=3)
    assert weights_of(continued) == weights_of(straight)
    assert json.dumps(first.metrics + second.metrics) == json.dumps(one.metrics)
    assert moved(coin_run(*RL), straight.model)
    assert not any(map(is_vision, moved(coin_run(*RL), straight.model)))
    moments = load_file(straight.checkpoint / OPTIMIZER)
    assert moments
    assert not [name for name in moments if "visual." in name]


def test_the_supervised_stage_can_freeze_as_well(tmp_path):
    base = ("stages=[warm_start]", "warm_start.steps=2", "warm_start.batch_size=4")
    run = coin_run(*base, "warm_start.freeze=[vision]")
    trained = train(run, Folder(tmp_path))
    assert moved(run, trained.model)
    assert not any(map(is_vision, moved(run, trained.model)))
    assert stage_key(run, "warm_start") != stage_key(coin_run(*base), "warm_start")


def test_freezing_is_part_of_the_id_and_its_absence_is_not():
    plain = training_id(resolve([]))
    assert "freeze" not in plain.inputs["rl"]
    assert training_id(resolve([FROZEN])).hash != plain.hash
    assert training_id(resolve(["rl.freeze=[]"])).hash == plain.hash


def test_a_part_there_is_not():
    with pytest.raises(ConfigError, match="vision"):
        resolve(["rl.freeze=[vison]"])


def test_a_model_without_a_vision_tower_is_named():
    run = coin_run(*RL)
    model = policy(run)
    model.model.get_encoder = lambda modality: model.model.base_model
    with pytest.raises(ConfigError, match="Qwen2_5_VLForConditionalGeneration has no vision tower"):
        make_optimizer(model, Optimization(freeze=("vision",)))


class Policy(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_a_tower_that_can_be_frozen(name):
    model = fresh(name)
    freeze(Policy(model), ("vision",))
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen
    assert all("vis" in name for name in frozen)
    assert all(p.requires_grad for p in model.get_decoder().parameters())
