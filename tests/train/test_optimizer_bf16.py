"""AdamW for weights in bfloat16: what float32 weights would be, from 16 bits and 16 bits."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim import AdamW

from vexp.errors import ConfigError
from vexp.spec.resolve import resolve
from vexp.spec.run import Compute, Optimization
from vexp.train import checkpoint
from vexp.train.checkpoint import OPTIMIZER
from vexp.train.device import make_accelerator
from vexp.train.optimizer import make_optimizer
from vexp.train.optimizer_bf16 import LOW, SplitAdamW, joined, split

RATE, DECAY = 1e-6, 1e-2
HALF = ("backbone=qwen2_5_vl_3b", "backbone.weights=bf16", "compute.precision=bf16")


def model(dtype=torch.bfloat16):
    """Weights of the sizes that are met: of a map, near 1 as in a norm, and large."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 64), nn.LayerNorm(64), nn.Linear(64, 1))
    with torch.no_grad():
        net[1].bias.fill_(4.0)
        for parameter in net.parameters():
            parameter.copy_(parameter.bfloat16())
    return net.to(dtype)


def drift(net, optimizer, updates, seed=1):
    """Updates by gradients that mostly point one way, the same for every dtype."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(updates):
        for parameter in net.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.grad = (noise * 0.01 + 0.01).bfloat16().to(parameter.dtype)
        optimizer.step()


def values(net, optimizer):
    """The weights as float32, with their second halves where they have them."""
    return [
        joined(p.detach(), optimizer.state[p][LOW]) if LOW in optimizer.state.get(p, {}) else p
        for p in net.parameters()
    ]


def groups(net):
    return [{"params": list(net.parameters()), "weight_decay": DECAY}]


def test_small_updates_add_up_as_in_float32():
    nets = {"float32": model(torch.float32), "split": model(), "plain": model()}
    optimizers = {
        "float32": AdamW(groups(nets["float32"]), lr=RATE),
        "split": SplitAdamW(groups(nets["split"]), lr=RATE, betas=(0.9, 0.999)),
        "plain": AdamW(groups(nets["plain"]), lr=RATE),
    }
    before = [p.detach().float() for p in model().parameters()]
    moved = {}
    for name, net in nets.items():
        drift(net, optimizers[name], 200)
        moved[name] = [
            float((after.detach().float() - start).abs().mean())
            for after, start in zip(values(net, optimizers[name]), before, strict=True)
        ]
    for exact, split_, plain in zip(*moved.values(), strict=True):
        assert split_ == pytest.approx(exact, rel=0.01)
        assert plain < 0.25 * exact  # what this optimiser is for
    for exact, own in zip(
        *(values(nets[n], optimizers[n]) for n in ("float32", "split")), strict=True
    ):
        # to 1 % of the way, beside what float32 itself rounds away
        torch.testing.assert_close(own, exact, rtol=1e-6, atol=200 * RATE * 0.01)


def test_a_part_in_float32_is_updated_as_by_torch():
    own, torchs = model(torch.float32), model(torch.float32)
    optimizer = SplitAdamW(groups(own), lr=1e-3, betas=(0.9, 0.999))
    drift(own, optimizer, 5)
    drift(torchs, AdamW(groups(torchs), lr=1e-3), 5)
    for mine, other in zip(own.parameters(), torchs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)


def test_the_halves_of_every_number_are_the_number():
    torch.manual_seed(0)
    numbers = torch.randn(100_000) * torch.logspace(-30, 30, 100_000)
    edges = torch.tensor([0.0, -0.0, 1.0, -1.0, 1.00390625, -1.00390625, 1.5, 3e38, 1e-40, -1e-40])
    for value in (numbers, edges):
        weight, low = (torch.empty(value.shape, dtype=torch.bfloat16) for _ in range(2))
        split(value, weight, low)
        assert torch.equal(joined(weight, low).view(torch.int32), value.view(torch.int32))
        spacing = (value.abs() * 2**-8).clamp(min=1e-40)
        assert bool(((weight.float() - value).abs() <= spacing).all())  # to the nearest


def test_more_numbers_than_are_updated_at_once(monkeypatch):
    whole, pieces = model(), model()
    drift(whole, SplitAdamW(groups(whole), lr=1e-3, betas=(0.9, 0.999)), 3)
    monkeypatch.setattr("vexp.train.optimizer_bf16._AT_ONCE", 7)
    drift(pieces, SplitAdamW(groups(pieces), lr=1e-3, betas=(0.9, 0.999)), 3)
    assert all(map(torch.equal, whole.parameters(), pieces.parameters()))


def test_it_goes_on_from_a_checkpoint_to_the_last_bit(tmp_path):
    settings, accelerator = (
        Optimization(weight_decay=DECAY),
        make_accelerator(Compute(device="cpu")),
    )
    net = model()
    optimizer = accelerator.prepare(make_optimizer(net, settings))
    drift(net, optimizer, 3)
    stopped = copy.deepcopy(net)
    save_file(checkpoint._moments(net, optimizer), tmp_path / OPTIMIZER)
    drift(net, optimizer, 3, seed=2)
    again = make_optimizer(stopped, settings)
    checkpoint.load_optimizer(tmp_path, stopped, again)
    again = accelerator.prepare(again)
    drift(stopped, again, 3, seed=2)
    for (name, one), two in zip(net.named_parameters(), stopped.parameters(), strict=True):
        assert torch.equal(one, two), name
        for key, value in optimizer.state[one].items():
            other = again.state[two][key]
            assert value.dtype == other.dtype
            # as bits: second halves may look like NaN
            assert torch.equal(
                value.reshape(-1).view(torch.int16), other.reshape(-1).view(torch.int16)
            ), (name, key)


def test_moments_of_plain_adamw_are_taken_over():
    net = model()
    plain = AdamW(groups(net), lr=1e-3)
    drift(net, plain, 3)
    optimizer = SplitAdamW(groups(net), lr=1e-3, betas=(0.9, 0.999))
    optimizer.load_state_dict(plain.state_dict())
    drift(net, optimizer, 1, seed=2)
    state = optimizer.state[net[0].weight]
    assert int(state["step"]) == 4
    assert state["exp_avg_sq"].dtype == torch.float32


def test_bfloat16_weights_get_it_and_others_do_not():
    assert isinstance(make_optimizer(model(), Optimization()), SplitAdamW)
    assert type(make_optimizer(model(torch.float32), Optimization())) is AdamW
    adapted = model()  # adapters are float32 over a model that does not learn
    adapted[0].requires_grad_(False)
    adapted[1].requires_grad_(False)
    adapted[2].float()
    assert type(make_optimizer(adapted, Optimization())) is AdamW


def test_moments_of_8_bits_over_bfloat16_weights_are_refused():
    over = [*HALF, "rl.optimizer=adamw_8bit"]
    with pytest.raises(ConfigError) as caught:
        resolve(over)
    (problem,) = caught.value.problems
    assert problem.where == "backbone.weights=bf16 and rl.optimizer=adamw_8bit"
    assert "rl.optimizer=adamw" in str(problem.remedy)
    assert resolve([*over, "backbone.lora.rank=8"]).rl.optimizer == "adamw_8bit"
    assert resolve([*HALF, "warm_start.optimizer=adamw_8bit", "stages=[]"])
