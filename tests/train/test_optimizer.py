"""One optimiser step."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.train.test_stages import RL, resumed, weights_of, whole
from vexp.errors import ConfigError, Diverged
from vexp.spec.identity import training_id
from vexp.spec.resolve import resolve
from vexp.spec.run import Compute, Optimization
from vexp.train.device import arithmetic, device_name, make_accelerator
from vexp.train.manifest import OPTIMIZER
from vexp.train.optimizer import apply_gradients, learning_rate, make_optimizer


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1))


def step(net, settings, gradient=1.0, update=1):
    optimizer = make_optimizer(net, settings)
    accelerator = make_accelerator(Compute(device="cpu"))
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    rate = learning_rate(settings, update, 0.0)
    return apply_gradients(
        accelerator, net, optimizer, rate, settings.max_grad_norm, where="step 7"
    )


def test_the_rate_rises_linearly_and_then_stays():
    settings = Optimization(learning_rate=1.0, ramp_steps=4)
    rates = [learning_rate(settings, n, (n - 1) / 6) for n in range(1, 7)]
    assert rates == [0.25, 0.5, 0.75, 1, 1, 1]
    assert learning_rate(Optimization(learning_rate=0.5), 1, 0.0) == 0.5


@pytest.mark.parametrize(
    ("schedule", "quarters"),
    [("linear", [1, 0.75, 0.5, 0.25]), ("cosine", [1, 0.8535534, 0.5, 0.1464466])],
)
def test_a_schedule_follows_the_steps_of_the_stage_and_multiplies_the_ramp(schedule, quarters):
    settings = Optimization(learning_rate=2.0, ramp_steps=2, schedule=schedule)
    ramp = [0.5, 1, 1, 1]
    rates = [learning_rate(settings, n + 1, n / 4) for n in range(4)]
    assert rates == pytest.approx([2 * a * b for a, b in zip(ramp, quarters, strict=True)])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_schedule_ends_at_its_floor(schedule):
    settings = Optimization(learning_rate=2.0, schedule=schedule, min_lr_ratio=0.1)
    rates = [learning_rate(settings, 1, done) for done in (0.0, 0.5, 1.0)]
    assert rates == pytest.approx([2.0, 2 * (0.1 + 0.9 / 2), 0.2])


def test_adamw_moves_by_the_rate_and_decays_matrices_only():
    net, before = model(), model()
    settings = Optimization(learning_rate=0.1, weight_decay=0.5, max_grad_norm=None)
    norm = step(net, settings)
    count = sum(p.numel() for p in net.parameters())
    assert norm == pytest.approx(count**0.5, rel=1e-6)
    for (name, new), old in zip(net.named_parameters(), before.parameters(), strict=True):
        kept = 1 - 0.1 * 0.5 if new.ndim == 2 else 1.0
        torch.testing.assert_close(new, old * kept - 0.1, msg=name)


def test_the_reported_norm_is_the_one_before_clipping():
    net = model()
    assert step(net, Optimization(max_grad_norm=0.5)) > 0.5
    clipped = torch.cat([p.grad.flatten() for p in net.parameters()]).norm()
    assert clipped == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_no_number_stops_before_the_weights_change(value):
    net, before = model(), model()
    with pytest.raises(Diverged, match="norm of the gradient") as caught:
        step(net, Optimization(learning_rate=1.0), gradient=value)
    assert "step 7" in str(caught.value)
    for new, old in zip(net.parameters(), before.parameters(), strict=True):
        assert new.equal(old)


def test_frozen_parameters_stay_out_of_the_optimizer():
    net = model()
    net[0].requires_grad_(False)
    held = {id(p) for g in make_optimizer(net, Optimization()).param_groups for p in g["params"]}
    assert held == {id(p) for p in net[1:].parameters()}


def test_threads_and_determinism_hold_inside_and_are_restored():
    threads = torch.get_num_threads()
    with arithmetic(Compute(threads=threads + 1, device="cpu")) as device:
        assert device == "cpu"
        assert torch.get_num_threads() == threads + 1
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_on_a_gpu_bfloat16_products_are_summed_in_float32(monkeypatch):
    monkeypatch.setattr("vexp.train.device.device_name", lambda compute: "cuda")
    products = torch.backends.cuda.matmul
    before = products.allow_bf16_reduced_precision_reduction
    with arithmetic(Compute()):
        assert not products.allow_bf16_reduced_precision_reduction
    assert products.allow_bf16_reduced_precision_reduction == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_asking_for_a_gpu_that_is_not_there_says_so():
    with pytest.raises(Exception, match="no GPU") as caught:
        device_name(Compute(device="cuda"))
    assert "compute.device" in str(caught.value)
    assert device_name(Compute(device="auto")) == "cpu"


def test_moments_of_8_bits_need_a_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ConfigError, match=r"install vexp\[bnb\], or set optimizer=adamw"):
        make_optimizer(model(), Optimization(optimizer="adamw_8bit"))


def test_8_bits_are_part_of_the_id_and_their_absence_is_not():
    plain = training_id(resolve([]))
    assert "optimizer" not in plain.inputs["rl"]
    assert training_id(resolve(["rl.optimizer=adamw"])).hash == plain.hash
    assert training_id(resolve(["rl.optimizer=adamw_8bit"])).hash != plain.hash


@pytest.mark.skipif(not find_spec("bitsandbytes"), reason="bitsandbytes is not installed")
def test_moments_of_8_bits_are_saved_and_read_again(tmp_path):
    overrides = (*RL, "rl.optimizer=adamw_8bit", "rl.learning_rate=1e-3")
    straight, one = whole(tmp_path, *overrides)
    continued, first, second = resumed(tmp_path, *overrides, stop_after=3)
    assert weights_of(continued) == weights_of(straight)
    assert json.dumps(first.metrics + second.metrics) == json.dumps(one.metrics)
    moments = load_file(straight.checkpoint / OPTIMIZER)
    assert {tensor.dtype for tensor in moments.values()} >= {torch.uint8}
