"""What processes put together: shares, sums, messages; and identities where there is only one."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributed import HashStore

from vexp.errors import ProcessLost
from vexp.experience.batch import even_micro_batches, micro_batches
from vexp.policy import parallel


@pytest.fixture
def of(monkeypatch):
    """A function that makes this process look like one of several, without any of the others."""

    def pretend(rank, world, store=None):
        monkeypatch.setattr(parallel, "_group", parallel._Group(rank, world, store))

    return pretend


@given(count=st.integers(0, 40), world=st.integers(1, 9))
def test_shares_are_even_and_nothing_is_lost_or_done_twice(count, world):
    things, found = list(range(count)), []
    for rank in range(world):
        parallel._group = parallel._Group(rank, world, None)
        try:
            found.append(things[parallel.slice_of_rank(count)])
        finally:
            parallel._group = None
    assert [thing for part in found for thing in part] == things
    assert max(map(len, found)) - min(map(len, found)) <= 1


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    size=st.integers(1, 30),
    shares=st.integers(1, 6),
)
def test_portions_for_several_processes_keep_every_row_and_the_limit(sizes, size, shares):
    group = [number for number, count in enumerate(sizes) for _ in range(count)]
    rows = list(range(len(group)))
    portions = even_micro_batches(group, rows, size, shares)
    assert sorted(row for portion in portions for row in portion) == rows
    assert all(0 < len(portion) <= size for portion in portions)
    if shares == 1:
        assert portions == micro_batches(group, rows, size)


def test_whole_groups_are_spread_over_all_processes():
    group = [number for number in range(16) for _ in range(8)]
    found = even_micro_batches(group, range(128), 64, 3)
    assert [len(portion) for portion in found] == [48, 48, 32]


def test_alone_everything_is_what_it_was():
    tensor = torch.tensor([1.0])
    assert (parallel.rank(), parallel.world_size(), parallel.is_rank_zero()) == (0, 1, True)
    assert parallel.all_gather({"x": tensor}, 3) == [({"x": tensor}, 3)]
    parallel.all_reduce([tensor])
    assert float(tensor) == 1.0
    assert parallel.any_rank(True)
    assert not parallel.any_rank(False)
    assert list(parallel.of_rank([[1], [2]])) == [[1], [2]]


def test_what_travels_arrives_as_it_was():
    tensors = {
        "bool": torch.tensor([[True, False]]),
        "none": torch.zeros(0, 3),
        "bf16": torch.tensor([1.5], dtype=torch.bfloat16),
        "int": torch.arange(4),
    }
    plain = {"value": 0.1 + 0.2, "rows": [[1, 2], []], "nan": float("inf")}
    found, said = parallel._unpacked(parallel._packed(tensors, plain))
    assert said == plain
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)
    assert parallel._unpacked(parallel._packed({}, None)) == ({}, None)


def test_buckets_mix_no_types_and_lose_nothing(monkeypatch):
    monkeypatch.setattr(parallel, "_BUCKET", 5)
    tensors = [torch.zeros(n, dtype=d) for n, d in ((2, torch.float32), (3, torch.float32),
               (1, torch.float32), (9, torch.float64), (1, torch.float64))]  # fmt: skip
    found = list(parallel._buckets(tensors))
    assert [[t.numel() for t in bucket] for bucket in found] == [[2, 3], [1], [9], [1]]
    assert all(len({t.dtype for t in bucket}) == 1 for bucket in found)


def test_the_first_process_is_heard_in_order_and_waited_for(of):
    store = HashStore()
    of(1, 2, store)
    late = threading.Timer(0.2, store.set, ["0", '{"folder": "x"}'])
    late.start()
    assert parallel.broadcast_recv() == {"folder": "x"}
    store.set("1", "null")
    assert parallel.path_from_rank_zero(lambda: pytest.fail("only the first process asks")) is None
    of(0, 2, store)
    parallel.broadcast_send([1, 2])
    assert store.get("0") == b"[1, 2]"


def in_two(work):
    """Run `work(rank)` in two real processes of a group, as threads cannot be."""
    context = torch.multiprocessing.get_context("spawn")
    queue, port = context.SimpleQueue(), context.SimpleQueue()
    started = [context.Process(target=work, args=(rank, port, queue)) for rank in (0, 1)]
    for process in started:
        process.start()
    found = dict(queue.get() for _ in started)
    for process in started:
        process.join(30)
    return [found[0], found[1]]


def _joined(rank, port):
    if rank == 0:
        store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        port.put(store.port)
        return store
    return torch.distributed.TCPStore("127.0.0.1", port.get(), is_master=False)


def _gradients(rank, port, queue):
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {"both": nn.Linear(2, 1), "one": nn.Linear(2, 1), "idle": nn.Linear(2, 1)}
    )
    store = _joined(rank, port)
    with parallel.member(store, rank, 2, "cpu"):
        model["both"](torch.full((1, 2), rank + 1.0)).sum().backward()
        if rank == 1:
            model["one"](torch.ones(1, 2)).sum().backward()
        parallel.all_reduce_gradients(model)
        found = {name: None if p.grad is None else p.grad.flatten().tolist()
                 for name, p in model.named_parameters()}  # fmt: skip
        parallel.check_agreement(model)
        if rank == 1:
            with torch.no_grad():
                model["idle"].weight.add_(1e-6)
        try:
            parallel.check_agreement(model)
            said = ""
        except Exception as error:
            said = str(error)
        found |= {"said": said, "any": parallel.any_rank(rank == 1)}
        parallel.all_gather({})  # the store goes with process 0: all are done
    queue.put((rank, found))


def test_gradients_are_summed_and_strays_are_found():
    first, second = in_two(_gradients)
    assert first == second
    assert first["both.weight"] == [3.0, 3.0]
    assert first["both.bias"] == [2.0]
    assert first["one.weight"] == [1.0, 1.0]
    assert first["idle.weight"] is None  # so that AdamW passes it over
    assert "the weights of process 1 are no longer those of process 0" in first["said"]
    assert first["any"]


def _left_alone(rank, port, queue):
    store = _joined(rank, port)
    said = ""
    with parallel.member(store, rank, 2, "cpu"):
        parallel.all_gather({})
        if rank == 0:
            try:
                parallel.all_gather({})
            except ProcessLost as lost:
                said = str(lost)
    queue.put((rank, said))


def test_who_is_left_alone_hears_of_it():
    said, _ = in_two(_left_alone)
    assert "lost each other" in said
