"""What vLLM does to torch's process groups stays with vLLM; none of this needs it."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_group_size, _resolve_process_group

from vexp.engine._vllm_world import own_world


@pytest.fixture
def run():
    """The default group, as a run has one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture(autouse=True)
def over():
    yield
    with own_world():
        if dist.is_initialized():
            dist.destroy_process_group()


def starts():
    """As vLLM does, which makes a default group and one group of each kind."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    return dist.new_group([0], backend="gloo")


def works(group=None):
    total = torch.ones(2)
    dist.all_reduce(total, group=group)
    return total.tolist() == [1.0, 1.0]


def test_it_makes_and_destroys_groups_and_the_runs_own_go_on(run):
    hook = sys.excepthook
    with own_world():
        assert not dist.is_initialized()
        starts()
        assert works() and dist.group.WORLD is not run
    assert dist.group.WORLD is run and works()
    with own_world():
        assert dist.is_initialized()
        dist.destroy_process_group()
    assert dist.group.WORLD is run and works()
    assert _resolve_process_group(run.group_name) == run  # by which FSDP2's tensors find it
    assert sys.excepthook is hook


def test_the_runs_next_group_has_the_name_it_has_in_a_process_without_vllm(run):
    """The processes of a run find each other by these names, and not all have a vLLM."""
    for _ in range(2):  # it is started again
        with own_world():
            starts()
            dist.destroy_process_group()
    with own_world():
        starts()
    group = dist.new_group([0])
    assert group.group_name == str(int(run.group_name) + 1)
    assert works(group)


def test_the_run_ends_first_and_vllm_goes_on(run):
    with own_world():
        group = starts()
    dist.destroy_process_group()
    with own_world():
        assert works() and works(group) and _get_group_size(None) == 1
        assert _resolve_process_group(group.group_name) == group
        dist.destroy_process_group(group)
        dist.destroy_process_group()
    assert not dist.is_initialized()


def test_an_error_inside_and_a_second_entry_bring_back_the_runs_groups(run):
    with pytest.raises(ValueError, match="broke down"), own_world():
        with own_world():
            starts()
        assert dist.group.WORLD is not run
        raise ValueError("broke down")
    assert dist.group.WORLD is run and works()
