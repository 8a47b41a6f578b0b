"""DeepSpeed's ZeRO over two real processes: weights, norms and moments of one process's AdamW."""

from __future__ import annotations

import functools
import traceback
from importlib import metadata

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from tests.policy.test_parallel import _joined, in_two
from tests.policy.test_sharding import KINDS, PORTIONS, batch, loss_of, made
from vexp.errors import ConfigError, Diverged
from vexp.policy import parallel, sharding, zero
from vexp.runs.processes import span_of
from vexp.spec.resolve import resolve
from vexp.spec.run import Compute, Optimization
from vexp.train import checkpoint
from vexp.train.checkpoint import State
from vexp.train.device import make_accelerator
from vexp.train.manifest import OPTIMIZER
from vexp.train.optimizer import apply_gradients, make_optimizer

CPU = Compute(device="cpu")
STAGES = ("zero1", "zero2")
KIND = {"zero1": "plain", "zero2": "plain", "zero2, adapters": "adapters"}
# After the second update, none of whose rows has an image, the vision tower has fewer updates.
UPDATES = ("one process has less to do", "no images", "with and without images", "one portion")
LIMITS = {"plain": 1000.0, "adapters": 400.0}  # the gradients of some updates are longer


def prepared(kind, shard, folder=None):
    """A policy with its optimiser, as training prepares them; its moments are those in `folder`."""
    options = dict(KINDS[kind])
    if folder is not None and options.get("adapters"):
        options["adapters"] = folder / "model"
    policy, _ = made(**options)
    sharding.shard_model(policy, Compute(shard=shard, device="cpu"))
    settings = Optimization(weight_decay=0.1, max_grad_norm=LIMITS[kind])
    optimizer = make_optimizer(policy, settings, shard)
    if folder is not None:
        checkpoint.load_optimizer(folder, policy, optimizer)
    accelerator = make_accelerator(CPU)
    return accelerator, *accelerator.prepare(policy, optimizer)


def update(accelerator, policy, optimizer, portions, limit):
    """An update as training does it; its norm, and the rows that were counted here.

    With plain AdamW all of it is done in each process by itself.
    """
    whole, done = batch(policy), []
    optimizer.zero_grad()
    alone = policy.zero is None
    for rows in (
        portions
        if alone
        else [rows for rows, _ in sharding.micro_batches_of_rank(policy, portions, whole)]
    ):
        accelerator.backward(loss_of(policy, whole.select(rows), rows))
        sharding.accumulate_gradients(policy)
        done += rows
    if not alone:
        sharding.all_reduce_gradients(policy)
    norm = apply_gradients(accelerator, policy, optimizer, 1e-3, limit, where="")
    optimizer.zero_grad()
    return norm, done


def saved(folder, policy, optimizer):
    if parallel.is_rank_zero():
        checkpoint.save(folder, State(2), policy, optimizer)
    else:
        checkpoint.assist(policy, optimizer)
    parallel.all_gather({})


def _trained(folder, shard, kind):
    """Updates in shards and by one process, each with its checkpoint; read by the other, too."""
    found = {}
    for name, how in (("one", "none"), ("shards", shard)):
        parts = prepared(kind, how)
        done = [update(*parts, PORTIONS[portions], LIMITS[kind]) for portions in UPDATES]
        found[name] = {"norms": [norm for norm, _ in done], "rows": [rows for _, rows in done]}
        saved(folder / name, *parts[1:])
    for name, how in (("one", shard), ("shards", "none")):
        there = folder / name / "step-000002"
        _, policy, optimizer = prepared(kind, how, there)
        saved(folder / f"{name}, read by the other", policy, optimizer)
    return found


def _held(shard):
    """Numbers held here: of moments, and of gradients between two micro-batches."""
    accelerator, policy, optimizer = prepared("plain", shard)
    whole, portions = batch(policy), PORTIONS["with and without images"]
    rows = sharding.micro_batches_of_rank(policy, portions, whole)[0][0]
    accelerator.backward(loss_of(policy, whole.select(rows), rows))
    sharding.accumulate_gradients(policy)
    waiting = [p.grad for p in policy.parameters() if p.grad is not None]
    for kept in policy.zero._engine.optimizer.all_grad_tensors.values():
        waiting += kept or []
    sharding.accumulate_gradients(policy)
    sharding.all_reduce_gradients(policy)
    apply_gradients(accelerator, policy, optimizer, 1e-3, None, where="")
    within = [adamw for adamw in policy.zero._within if adamw]
    moments = [v for adamw in within for state in adamw.state.values() for v in state.values()]
    return {
        "all": sum(p.numel() for p in policy.parameters()),
        "largest": max(p.numel() for p in policy.parameters()),
        "moments": sum(moment.numel() for moment in moments if moment.ndim),
        "gradients": sum(gradient.numel() for gradient in waiting),
    }


def _not_finite(shard):
    """What becomes of the weights when one process has a gradient that is not finite."""
    accelerator, policy, optimizer = prepared("plain", shard)
    before = [p.detach().clone() for p in policy.parameters()]
    for p in policy.parameters():
        p.grad = torch.full_like(p, torch.inf if parallel.is_rank_zero() else 1.0)
    sharding.micro_batches_of_rank(policy, [[0], [1]], batch(policy))
    sharding.accumulate_gradients(policy)
    sharding.all_reduce_gradients(policy)
    message = ""
    try:
        apply_gradients(accelerator, policy, optimizer, 1e-3, LIMITS["plain"], where="here")
    except Diverged as error:
        message = str(error)
    same = all(map(torch.equal, before, policy.parameters()))
    return message, same, dict(optimizer.state_dict()["state"])


def _everything(folder, rank, port, queue):
    torch.set_num_threads(1)
    store, found = _joined(rank, port), {}
    try:
        with parallel.member(store, rank, 2, "cpu"):
            for name, kind in KIND.items():
                shard = name.partition(",")[0]
                found[name] = _trained(folder / name, shard, kind)
            for shard in STAGES:
                found[f"held, {shard}"] = _held(shard)
                found[f"not finite, {shard}"] = _not_finite(shard)
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


@pytest.mark.deepspeed
@pytest.mark.parametrize("name", KIND)
def test_norms_weights_and_moments_are_those_of_one_process(found, folder, name):
    """Also of parameters without a gradient in one of the updates, which do not decay in it."""
    one, two = (part[name] for part in found)
    assert one["one"]["norms"] == two["one"]["norms"]
    assert one["shards"]["norms"] == two["shards"]["norms"]
    assert one["shards"]["norms"] == pytest.approx(one["one"]["norms"], rel=1e-5)
    assert min(one["one"]["norms"]) < LIMITS[KIND[name]] < max(one["one"]["norms"])
    for file in ("model/model.safetensors", OPTIMIZER):
        whole, shards = (
            load_file(folder / name / how / "step-000002" / file) for how in ("one", "shards")
        )
        assert whole.keys() == shards.keys()
        for key, value in whole.items():
            torch.testing.assert_close(shards[key], value, rtol=1e-4, atol=2e-6, msg=key)
        if file == OPTIMIZER and name != "zero2, adapters":
            counts = {float(value) for key, value in shards.items() if key.endswith("/step")}
            assert counts == {len(UPDATES) - 1.0, len(UPDATES)}


@pytest.mark.deepspeed
@pytest.mark.parametrize("name", KIND)
def test_every_row_is_learned_from_once(found, name):
    one, two = (part[name]["shards"]["rows"] for part in found)
    for mine, others, portions in zip(one, two, UPDATES, strict=True):
        assert sorted(mine + others) == sorted(row for rows in PORTIONS[portions] for row in rows)


@pytest.mark.deepspeed
@pytest.mark.parametrize("name", KIND)
@pytest.mark.parametrize("how", ["one", "shards"])
def test_moments_are_read_by_the_other_and_written_again_bit_by_bit(found, folder, name, how):
    written = folder / name / how / "step-000002" / OPTIMIZER
    again = folder / name / f"{how}, read by the other" / "step-000002" / OPTIMIZER
    assert again.read_bytes() == written.read_bytes()


@pytest.mark.deepspeed
@pytest.mark.parametrize("shard", STAGES)
def test_each_process_holds_its_part(found, shard):
    both = [part[f"held, {shard}"] for part in found]
    total, largest = both[0]["all"], both[0]["largest"]
    assert sum(one["moments"] for one in both) == 2 * total
    assert all(0.99 < one["moments"] / total < 1.01 for one in both)
    if shard == "zero1":  # until the update
        assert all(one["gradients"] == total for one in both)
    else:  # and all of the one parameter that both have a part of, in either group
        assert sum(one["gradients"] for one in both) <= total + 2 * largest
        assert all(one["gradients"] <= total / 2 + 2 * largest for one in both)
        assert all(one["gradients"] < 0.8 * total for one in both)


@pytest.mark.deepspeed
@pytest.mark.parametrize("shard", STAGES)
def test_a_gradient_that_is_not_finite_leaves_the_weights_as_they_are(found, shard):
    for part in found:
        message, same, state = part[f"not finite, {shard}"]
        assert "the norm of the gradient is inf" in message
        assert same
        assert not state


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 6), st.integers(0, 9))
def test_shards_hold_every_number_once_and_in_order(sizes, world, first):
    numbers = [(first + i, k) for i, size in enumerate(sizes) for k in range(size)]
    length = next(n for n in range(2, 9999, 2) if n * world >= len(numbers))
    shards = zero.layout(sizes, world, first)
    assert len(shards) == world
    found = {}
    for process, slices in enumerate(shards):
        for part in slices:
            assert part.size > 0
            assert part.start + part.size <= length
            for k in range(part.size):
                place = process * length + part.start + k
                assert place not in found
                found[place] = (part.parameter, part.offset + k)
    assert found == dict(enumerate(numbers))


def _absent(name):
    raise metadata.PackageNotFoundError(name)


@pytest.mark.parametrize(
    ("version", "what"),
    [
        (_absent, "needs the package deepspeed, which is not installed"),
        (lambda _: "0.18.2+cu12", r"needs deepspeed 0\.19\.8 or newer, and 0\.18\.2\+cu12"),
    ],
)
def test_a_deepspeed_that_is_not_there_or_too_old_is_one_message(monkeypatch, version, what):
    run = resolve(["compute.shard=zero2", "compute.processes=2", "compute.device=cpu"])
    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(ConfigError, match=f"compute.shard=zero2 {what}") as found:
        span_of(run, None)
    assert "install vexp[deepspeed], or set compute.shard=fsdp2" in str(found.value)


def test_stage_3_is_fsdp2():
    with pytest.raises(ConfigError, match="'zero3' is not one of the choices") as found:
        resolve(["compute.shard=zero3", "compute.processes=2"])
    assert "use fsdp2" in str(found.value)
    assert "did you mean" not in str(found.value)


@pytest.mark.parametrize("shard", STAGES)
def test_weights_in_bfloat16_are_not_updated_in_another_precision(shard):
    half = ["backbone=qwen2_5_vl_3b", "backbone.weights=bf16", "compute.precision=bf16"]
    run = [*half, f"compute.shard={shard}", "compute.processes=2"]
    with pytest.raises(ConfigError, match="float32 copy of weights in bfloat16"):
        resolve(run)
    resolve([*run, "backbone.lora.rank=8"])  # adapters are float32
