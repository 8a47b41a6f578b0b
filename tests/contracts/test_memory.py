"""What every component that remembers promises: killed and resumed, it goes on to the last bit."""

from __future__ import annotations

import json

import pytest
import torch

from tests.train.fakes import coin_run
from tests.train.test_checkpoint import trained
from tests.train.test_stages import RL, resumed, weights_of, whole
from vexp.errors import CheckpointError
from vexp.registry import KINDS, REGISTRY, Component
from vexp.train import checkpoint
from vexp.train.checkpoint import State
from vexp.train.component_state import initial, joined, split
from vexp.train.manifest import MEMORY, damage

# Kinds whose memory the loop hands over; one that is not here must not remember anything.
REMEMBERING = {"group_filter"}
RUN = (*RL, "rl.steps=6", "rollout.group_size=2")  # every second group has no advantage


def remembers(cls):
    return cls.initial_state is not Component.initial_state


def same(one, other):
    """Equal to the last bit, types included."""
    assert one.keys() == other.keys()
    for path in one:
        assert one[path].keys() == other[path].keys()
        for name, value in one[path].items():
            again = other[path][name]
            assert type(value) is type(again)
            if isinstance(value, torch.Tensor):
                assert value.dtype == again.dtype
                assert value.equal(again)
            else:
                assert value == again


@pytest.mark.parametrize("kind", sorted(set(KINDS) - REMEMBERING))
def test_only_kinds_that_the_loop_serves_remember(kind):
    assert not [n for n in REGISTRY.names(kind) if remembers(REGISTRY.get(kind, n))]


@pytest.fixture(params=REGISTRY.names("group_filter"))
def overrides(request):
    return (*RUN, f"group_filter={request.param}")


@pytest.mark.parametrize("crash", [False, True], ids=["stopped", "killed"])
def test_resumed_equals_never_stopped(tmp_path, overrides, crash):
    straight, one = whole(tmp_path, *overrides)
    continued, first, second = resumed(tmp_path, *overrides, stop_after=3, crash=crash)
    assert second.resumed_at == [2 if crash else 3]
    assert weights_of(continued) == weights_of(straight)
    rows = first.metrics[: second.resumed_at[0]] + second.metrics
    assert json.dumps(rows) == json.dumps(one.metrics)
    files = sorted(path.name for path in straight.checkpoint.iterdir())
    assert sorted(path.name for path in continued.checkpoint.iterdir()) == files
    for name in files:
        if name not in ("model", "manifest.json"):  # a loaded config says more
            found = (continued.checkpoint / name).read_bytes()
            assert found == (straight.checkpoint / name).read_bytes(), name
    same(State.read(continued.checkpoint).memory, State.read(straight.checkpoint).memory)


def test_a_component_has_a_memory_in_the_checkpoint_if_it_declares_one(tmp_path, overrides):
    run = coin_run(*overrides)
    straight, _ = whole(tmp_path, *overrides)
    assert set(State.read(straight.checkpoint).memory) == set(initial(run))
    assert bool(initial(run)) == remembers(type(run.group_filter))


def test_the_replay_of_these_runs_is_no_empty_promise(tmp_path):
    overrides = (*RUN, "group_filter=replay")
    straight, folder = whole(tmp_path, *overrides)
    assert sum(row["replayed"] for row in folder.metrics) > 0
    assert (straight.checkpoint / MEMORY).stat().st_size > 0
    assert len(State.read(straight.checkpoint).memory["group_filter"]["outcome"]) > 0


MEMORIES = {
    "group_filter": {
        "numbers": torch.arange(6).view(2, 3)[:, :2],  # not contiguous
        "flags": torch.tensor([True, False]),
        "small": torch.tensor([0.1], dtype=torch.float64),
        "none": torch.zeros(0, 4),
        "seen": ["a/1", "b/2"],
        "mean": 0.1 + 0.2,
        "count": 3,
    },
    "auxiliary.ease": {},
}


def test_tensors_and_plain_values_come_back_bit_by_bit(tmp_path):
    policy, optimizer = trained()
    folder = checkpoint.save(tmp_path, State(2, memory=MEMORIES), policy, optimizer)
    assert damage(folder) is None
    same(dict(State.read(folder).memory), MEMORIES)


def test_taking_apart_and_putting_together_are_inverse():
    tensors, plain = split(MEMORIES)
    assert set(plain) == set(MEMORIES)
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    json.dumps(plain)
    same(joined(tensors, plain), MEMORIES)


def test_what_remembers_nothing_leaves_no_trace(tmp_path):
    policy, optimizer = trained()
    folder = checkpoint.save(tmp_path, State(2), policy, optimizer)
    assert not (folder / MEMORY).exists()
    assert "memory" not in json.loads((folder / "state.json").read_text())
    assert State.read(folder).memory == {}


@pytest.mark.parametrize("harm", ["missing", "cut"])
def test_a_damaged_memory_is_a_damaged_checkpoint(tmp_path, harm):
    policy, optimizer = trained()
    for step in (1, 2):
        checkpoint.save(tmp_path, State(step, memory=MEMORIES), policy, optimizer)
    path = tmp_path / "step-000002" / MEMORY
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    notes = []
    assert checkpoint.newest([tmp_path], 9, notes.append) == tmp_path / "step-000001"
    assert MEMORY in notes[0]


def test_nothing_resumes_a_finished_run_so_its_memory_goes_with_the_moments(tmp_path):
    policy, optimizer = trained()
    folder = checkpoint.save(tmp_path, State(2, memory=MEMORIES), policy, optimizer)
    checkpoint.drop_optimizer(folder)
    assert not (folder / MEMORY).exists()
    assert damage(folder) is None
    assert State.read(folder).step == 2


def test_a_memory_that_json_cannot_hold_is_refused_when_it_is_saved(tmp_path):
    policy, optimizer = trained()
    bad = {"group_filter": {"seen": {1, 2}}}
    with pytest.raises((TypeError, CheckpointError)):
        checkpoint.save(tmp_path, State(2, memory=bad), policy, optimizer)
    assert list(tmp_path.iterdir()) == []
