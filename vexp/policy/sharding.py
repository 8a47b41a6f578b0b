"""What lies in shards over the processes of a run: with torch's FSDP2 (`fully_shard`) all of it.

Weights, gradients and AdamW's moments lie in shards, a part of each tensor in every process. There
are two states. *Sharded*, which is the usual one and that of an update: a layer's weights are
gathered when a pass reaches it, and its gradient is summed into the shards. And *whole*, in which
everything without a gradient happens: forward passes then talk to nobody, so that every process may
do as many as it has to. In an update all processes have to use the same layers as often, for which
`turns` sees. A policy that is not sharded goes through every function here as it is.

With DeepSpeed's ZeRO weights are whole at all times; what is in shards is the optimiser's (`zero`).

Zhao et al., "PyTorch FSDP" (arXiv:2304.11277); Rajbhandari et al., "ZeRO" (arXiv:1910.02054).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from vexp.policy import parallel
from vexp.policy.stopping import Abandoned
from vexp.policy.zero import Shard

if TYPE_CHECKING:
    from vexp.experience.batch import Experience
    from vexp.policy.policy import Policy
    from vexp.spec.run import Compute


def shard_model(policy: Policy, compute: Compute) -> None:
    """Spread the policy over the processes of the run, if `compute.shard` says so.

    Each layer of decoder and vision tower is gathered by itself, and all the rest together. What is
    to be frozen has to be frozen before the first forward pass.

    Raises:
        RunError: if the processes do not hold the same weights.
        ProcessLost: if one of them is gone.
    """
    parallel.check_agreement(policy)
    if compute.shard != "fsdp2":
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    layers = policy.model.get_decoder().layers
    blocks = [*layers, *policy.family.vision_blocks(policy.model)]
    with parallel.together():
        mesh = init_device_mesh(policy.device.type, (parallel.world_size(),))
        for part in (*blocks, policy):
            fully_shard(part, mesh=mesh)
            if not isinstance(part, FSDPModule):
                raise TypeError(f"{type(part).__name__} could not be sharded")
            # The loss of a process is its part of a sum, so gradients are added and not averaged.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
    # While all is whole, passes begin anywhere in the model; torch takes the module that the first
    # one begins at for the root, and has no public way to tell it which that is.
    fully_shard.state(policy)._lazy_init()  # type: ignore[attr-defined]
    policy.sharded = True


@contextlib.contextmanager
def unsharded(policy: Any) -> Iterator[None]:
    """Every process holds all weights while the block runs; for passes without a gradient.

    All processes enter together, and leave together where a step is given up. Anything but a
    sharded policy stays as it is; nothing is put back after an error, which ends training.
    """
    if not getattr(policy, "sharded", False) or policy.whole:
        yield
        return
    policy.set_reshard_after_forward(False)
    with parallel.together():
        for part in _units(policy):
            part.unshard()
    policy.whole = True
    try:
        yield
    except Abandoned:
        _back_to_shards(policy)
        raise
    _back_to_shards(policy)


def _back_to_shards(policy: Any) -> None:
    policy.whole = False
    policy.reset_iter_state()  # what torch noted of the passes is of no update
    for part in _units(policy):
        part.set_reshard_after_forward(part is not policy, recurse=False)


def micro_batches_of_rank(
    policy: Policy, portions: Sequence[list[int]], experience: Experience
) -> list[tuple[list[int], bool]]:
    """The portions of an update that this process does, and whether each counts.

    With a sharded policy all processes do as many, and in every turn either all or none look at
    images, since a layer is gathered from all when one reaches it. Who has nothing left repeats a
    portion of another one, which does not count.
    """
    if not policy.sharded:
        share = parallel.of_rank if policy.zero is None else policy.zero.share
        return [(rows, True) for rows in share(portions)]
    pieces, group = experience.prompts.pieces, experience.group.tolist()
    sighted = [any(pieces[group[row]] for row in rows) for rows in portions]
    world, own = parallel.world_size(), []
    for kind in (True, False):
        chosen = [rows for rows, sees in zip(portions, sighted, strict=True) if sees == kind]
        for start in range(0, len(chosen), world):
            turn = chosen[start : start + world]
            counts = parallel.rank() < len(turn)
            own.append((turn[parallel.rank()] if counts else turn[-1], counts))
    return own


def updating(policy: Policy) -> contextlib.AbstractContextManager[None]:
    """Around updates, in which a process may be missed at any line if something is in shards."""
    spread = policy.sharded or policy.zero is not None
    return parallel.together(mixed=True) if spread else contextlib.nullcontext()


def accumulate_gradients(policy: Policy) -> None:
    """After the backward pass of a micro-batch: what ZeRO does with its gradients."""
    if policy.zero is not None:
        policy.zero.take()


def all_reduce_gradients(policy: Policy) -> None:
    """Give every process its part of the gradient of all portions; shards have theirs by now.

    Nothing is asked of other processes between the last of them and this.
    """
    if policy.zero is not None:
        policy.zero.take_the_rest()
    elif not policy.sharded:
        parallel.all_reduce_gradients(policy)


def unsharded_tensor(value: Tensor | Shard) -> Tensor:
    """All of a tensor that may lie in shards; every process has to ask."""
    from torch.distributed.tensor import DTensor

    if isinstance(value, Shard):
        return value.gathered()
    if not isinstance(value, DTensor):
        return value
    with parallel.together():
        return value.full_tensor()


def like(value: Any, parameter: Tensor) -> Any:
    """This process's shard of a whole value of the parameter's shape, if it lies in shards."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(parameter, DTensor) or getattr(value, "shape", None) != parameter.shape:
        return value
    moved = value.to(parameter.device)
    return distribute_tensor(moved, parameter.device_mesh, parameter.placements, src_data_rank=None)


def state_dict(model: nn.Module) -> dict[str, Tensor]:
    """As `model.state_dict()`, which would put a whole sharded model back to shards."""
    if not any(isinstance(part, _fsdp()) for part in model.modules()):
        return model.state_dict()
    found: dict[str, Tensor] = {}
    for prefix, part in model.named_modules():
        own = {**part._parameters, **part._buffers}
        for name, value in own.items():
            if value is not None and name not in part._non_persistent_buffers_set:
                found[f"{prefix}.{name}".lstrip(".")] = value.detach()
    return found


def _units(policy: nn.Module) -> list[Any]:
    return [part for part in policy.modules() if isinstance(part, _fsdp())]


def _fsdp() -> type:
    from torch.distributed.fsdp import FSDPModule

    return FSDPModule
