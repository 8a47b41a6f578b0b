"""A policy in shards of two real processes: gradients, weights and moments of one whole policy."""

from __future__ import annotations

import dataclasses
import functools
import traceback
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from tests import tiny
from tests.policy.test_lora import SETTINGS, stirred
from tests.policy.test_parallel import _joined, in_two
from tests.train.fakes import experience
from vexp.experience.batch import forward
from vexp.policy import lora, parallel, sharding
from vexp.policy.policy import Reading
from vexp.probe.attention import Probe
from vexp.spec.run import Compute, Optimization
from vexp.train import checkpoint
from vexp.train.checkpoint import State
from vexp.train.device import make_accelerator
from vexp.train.manifest import OPTIMIZER
from vexp.train.optimizer import apply_gradients, make_optimizer

SMALL = dataclasses.replace(tiny.SMALL, layers=2)
SHARDED = Compute(shard="fsdp2", device="cpu")
WIDTH = 5
# Two responses to each of four prompts; rows 4 and 5 answer the one without an image, and rows 0
# and 2 have one token.
PORTIONS = {
    "one process has less to do": [[0, 1, 2], [3], [6, 7]],
    "with and without images": [[0, 1], [2, 3], [4, 5], [6, 7]],
    "images in some rows": [[2, 4], [5, 7]],
    "no images": [[4], [5]],
    "one portion": [[0, 1, 6]],
    "a single token": [[0], [1]],
}
KINDS = {
    "plain": {},
    "vision frozen, recomputed": {"freeze": ("vision",), "recompute": True},
    "adapters": {"adapters": True},
}

FEWER = ("one process has less to do", "with and without images")  # of the kinds but the first
SAVED = ("plain", "adapters")
HALF = {"half": True}


def made(*, freeze=(), recompute=False, adapters=False, half=False, shard=False):
    policy = SMALL.load(precision="bf16" if half else "fp32")
    if half:
        policy.to(torch.bfloat16)
    if recompute:
        policy.recompute()
    if adapters:
        lora.attach(policy, SETTINGS, 3)
        stirred(policy)
    if isinstance(adapters, Path):
        lora.restore(policy, adapters)
    if shard:
        sharding.shard_model(policy, SHARDED)
    optimizer = make_optimizer(policy, Optimization(freeze=freeze))
    return policy, optimizer


def batch(policy):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 400, (8, WIDTH), generator=generator)
    lengths = torch.tensor([1, 5, 1, 3, 4, 2, 5, 5])
    return experience(
        prompts=policy.encode(tiny.ragged_items(), tiny.PROMPT),
        group=torch.arange(4).repeat_interleave(2),
        tokens=tokens,
        mask=torch.arange(WIDTH) < lengths.unsqueeze(1),
    )


def loss_of(policy, part, rows):
    """Log-probs and attention logits of a portion, with the weights of their rows in the batch."""
    probe = Probe({0, 1}, rows=torch.zeros(len(rows), 1, dtype=torch.int64))
    output = forward(policy, part, 1.0, Reading(entropy=True, probe=probe))
    weights = torch.tensor([1.0 + row for row in rows])
    loss = (weights.unsqueeze(1) * part.mask * (output.logprobs + 0.1 * output.entropy)).sum()
    for found in output.attention.values():
        logits = found.logits.masked_fill(found.logits == -torch.inf, 0.0)
        loss = loss + (weights * logits.sum(dim=(1, 2, 3))).sum() / 50
    other = forward(policy, part, 0.7)  # a second pass with a gradient, as a counterfactual is
    return loss + (weights.unsqueeze(1) * part.mask * other.logprobs).sum()


def learn(policy, portions):
    """What an update does up to its gradient; the rows that were counted here."""
    whole, done = batch(policy), []
    policy.zero_grad()
    for rows, counted in sharding.micro_batches_of_rank(policy, portions, whole):
        loss = loss_of(policy, whole.select(rows), rows)
        (loss if counted else 0.0 * loss).backward()
        done += rows if counted else []
    sharding.all_reduce_gradients(policy)
    return done


def gradients(policy):
    return {
        name: None if p.grad is None else sharding.unsharded_tensor(p.grad).float().clone()
        for name, p in policy.named_parameters()
    }


def apart(found, expected):
    """The largest difference, as a share of the largest number of a tensor; None where only one of
    the two has a gradient."""
    worst = 0.0
    assert found.keys() == expected.keys()
    for name, value in found.items():
        other = expected[name]
        if (value is None) != (other is None):
            return name
        if value is not None and other is not None:
            worst = max(worst, float((value - other).abs().max() / (other.abs().max() + 1e-8)))
    return worst


def _alone(policy, portions):
    """The gradient by one process: no collective call is made for a policy that is whole."""
    whole = batch(policy)
    policy.zero_grad()
    for rows in portions:
        loss_of(policy, whole.select(rows), rows).backward()
    return gradients(policy)


def _compared(kind):
    """By the names of `PORTIONS`: how far the sharded gradient is from the whole one."""
    (whole, _), (sharded, _) = made(**kind), made(**kind, shard=True)
    found = {}
    for name, portions in PORTIONS.items():
        if kind and name not in FEWER:
            continue
        with (
            sharding.unsharded(sharded),
            torch.no_grad(),
        ):  # passes as of one process more than another
            for _ in range(parallel.rank()):
                part = batch(sharded).select([1, 4])
                forward(sharded, part, 1.0)
        done = learn(sharded, portions)
        gradient = gradients(sharded)
        worst = apart(gradient, _alone(whole, portions)) if parallel.is_rank_zero() else None
        found[name] = (worst, done)
    return found


def _in_shards():
    """What lies where in the two states, and within a pass."""
    policy, _ = made(shard=True)
    layers = policy.model.get_decoder().layers
    total = sum(p.numel() for p in policy.parameters())
    seen = []
    layers[1].self_attn.register_forward_pre_hook(
        lambda *_: seen.append([isinstance(next(x.parameters()), DTensor) for x in layers])
    )
    learn(policy, [[1], [3]])
    found = {
        "units": sum(isinstance(part, FSDPModule) for part in policy.modules()),
        "wrapped": isinstance(policy, FSDPModule),
        "all shards": all(isinstance(p, DTensor) for p in policy.parameters()),
        "share": sum(p.to_local().numel() for p in policy.parameters()) / total,
        "gradients": {type(p.grad) for p in policy.parameters()} <= {DTensor, type(None)},
        "in a pass": seen[0],
    }  # fmt: skip
    like = made()[0].model.state_dict()
    with sharding.unsharded(policy), sharding.unsharded(policy):
        state = sharding.state_dict(policy.model)
        found["state"] = list(state) == list(like) and all(
            torch.equal(value, like[name]) for name, value in state.items()
        )
        found["whole"] = not any(isinstance(p, DTensor) for p in policy.parameters())
    found["again"] = all(isinstance(p, DTensor) for p in policy.parameters())
    return found


def _updated(folder, kind):
    """Two steps in shards and two of one process; then checkpoints, each read by the other."""
    found, saved = {}, {}
    for name, shard in (("whole", False), ("shards", True)):
        policy, optimizer = made(**kind, shard=shard)
        accelerator = make_accelerator(SHARDED)
        policy, optimizer = accelerator.prepare(policy, optimizer)
        norms = []
        for portions in (PORTIONS["one process has less to do"], PORTIONS["one portion"]):
            if shard:
                learn(policy, portions)
            else:
                _alone(policy, portions)
            norms.append(apply_gradients(accelerator, policy, optimizer, 1e-3, 1.0, where=""))
        found[f"norms, {name}"] = norms
        if parallel.is_rank_zero():
            saved[name] = checkpoint.save(folder / name, State(2), policy, optimizer)
        else:
            checkpoint.assist(policy, optimizer)
    for name, shard in (("whole", True), ("shards", False)):
        parallel.all_gather({})
        adapters = folder / name / "step-000002" / "model" if kind.get("adapters") else None
        policy, optimizer = made(**kind | {"adapters": adapters}, shard=shard)
        checkpoint.load_optimizer(folder / name / "step-000002", policy, optimizer)
        again = folder / f"{name}, read by the other"
        if parallel.is_rank_zero():
            checkpoint.save(again, State(2), policy, optimizer)
        else:
            checkpoint.assist(policy, optimizer)
    return found


def _everything(folder, rank, port, queue):
    torch.set_num_threads(1)
    store, found = _joined(rank, port), {}
    try:
        with parallel.member(store, rank, 2, "cpu"):
            found["shards"] = _in_shards()
            found |= {name: _compared(kind) for name, kind in KINDS.items()}
            for name, kind in [*((name, KINDS[name]) for name in SAVED), ("half", HALF)]:
                found[f"saved, {name}"] = _updated(folder / name, kind)
            parallel.all_gather({})  # the store goes with process 0: all are done
    except Exception:
        found["error"] = traceback.format_exc()
    queue.put((rank, found))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def found(folder):
    """What the two processes report; started once for all tests."""
    both = in_two(functools.partial(_everything, folder))
    assert "error" not in both[0], both[0]["error"]
    assert "error" not in both[1], both[1]["error"]
    return both


def test_each_process_holds_its_shard_and_a_layer_is_gathered_for_its_pass(found):
    for one in (part["shards"] for part in found):
        assert one["wrapped"]
        assert one["units"] == SMALL.layers + SMALL.vision_depth + 1
        assert one["all shards"]
        assert one["gradients"]
        assert 0.45 < one["share"] < 0.55
        assert one["in a pass"] == [True, False]  # only the layer that is at work is whole
        assert one["state"]  # to be read without putting the weights back to shards
        assert one["whole"]
        assert one["again"]


@pytest.mark.parametrize(
    ("kind", "portions"),
    [(kind, name) for kind in KINDS for name in PORTIONS if kind == "plain" or name in FEWER],
)
def test_the_gradient_is_that_of_one_process(found, kind, portions):
    (worst, done), (_, rest) = (part[kind][portions] for part in found)
    assert worst < 2e-5
    assert sorted(done + rest) == sorted(row for rows in PORTIONS[portions] for row in rows)


@pytest.mark.parametrize("kind", SAVED)
def test_norms_weights_and_moments_are_those_of_one_process(found, folder, kind):
    one, two = (part[f"saved, {kind}"] for part in found)
    assert one == two
    assert one["norms, shards"] == pytest.approx(one["norms, whole"], rel=1e-5)
    for name in ("model/model.safetensors", OPTIMIZER):
        whole, shards = (
            load_file(folder / kind / how / "step-000002" / name) for how in ("whole", "shards")
        )
        assert whole.keys() == shards.keys()
        for key, value in whole.items():
            torch.testing.assert_close(shards[key], value, rtol=1e-4, atol=2e-6, msg=key)


@pytest.mark.parametrize("kind", [*SAVED, "half"])
def test_a_checkpoint_of_one_is_read_by_the_other_and_written_again_bit_by_bit(found, folder, kind):
    for how in ("whole", "shards"):
        written = folder / kind / how / "step-000002"
        again = folder / kind / f"{how}, read by the other" / "step-000002"
        assert (again / OPTIMIZER).read_bytes() == (written / OPTIMIZER).read_bytes()
        if kind == "adapters":  # of a plain model only the moments were read
            name = f"model/{lora.ADAPTER}"
            assert (again / name).read_bytes() == (written / name).read_bytes()
