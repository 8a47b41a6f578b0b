"""Several processes at one run: each holds the whole model and does a share of the forward passes.

All processes plan the same step, because every random number is keyed by item and place, never by
process. What they find is put together again before anything is decided. With one process, which is
the usual case, every function here is an identity.

The process that owns the run's folder has rank 0; the others only follow. What the first one alone
knows (where a checkpoint lies, say) it tells through torch's key-value store, where one may wait
for as long as it takes; what belongs to a step goes through collective calls, which give up after
`TIMEOUT`. Nothing is pickled: tensors travel as safetensors, everything else as JSON.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store

from vexp.errors import Interrupted, ProcessLost, RunError

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)  # how long a process waits for the others within a step
_BUCKET = 1 << 26  # numbers that are summed over the processes at once
_POLL_S = 0.02
_LEAVING_S = 5.0  # how long a process that is done waits for the others to be


@dataclass
class _Group:
    rank: int
    world_size: int
    store: Store
    messages: int = field(default=0)  # how many `tell` has sent, or `told` received


_group: _Group | None = None


def rank() -> int:
    """This process's number; 0 is in charge of the run's folder."""
    return _group.rank if _group else 0


def world_size() -> int:
    """How many processes are at this run."""
    return _group.world_size if _group else 1


def is_rank_zero() -> bool:
    """Whether this process writes what a run leaves behind."""
    return rank() == 0


@contextlib.contextmanager
def member(store: Store, rank: int, size: int, device: str) -> Iterator[None]:
    """Be process `rank` of `world` while the block runs; they meet at `store`.

    Raises:
        ProcessLost: if the others do not come.
    """
    global _group
    backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
    with together():
        dist.init_process_group(
            backend,
            store=PrefixStore("group", store),
            rank=rank,
            world_size=size,
            timeout=TIMEOUT,
        )
    _group = _Group(rank, size, PrefixStore("messages", store))
    try:
        yield
        _leave(store)
    except Interrupted:
        _leave(store)
        raise
    finally:
        _group = None
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


def _leave(store: Store) -> None:
    """Wait a moment until all are done: who hangs up too early breaks what others still read."""
    with contextlib.suppress(RuntimeError):
        end = time.monotonic() + _LEAVING_S
        count = store.add("left", 1)
        while count < world_size() and time.monotonic() < end:
            time.sleep(_POLL_S)
            count = store.add("left", 0)


@contextlib.contextmanager
def together(*, mixed: bool = False) -> Iterator[None]:
    """Turn torch's complaint that somebody is gone into ours.

    `mixed`: the block does other things too, so only an error that names the transport is taken.
    """
    try:
        yield
    except RuntimeError as error:  # torch's own types all derive from it
        if mixed and not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise ProcessLost(f"the processes of this run lost each other: {error}") from error


# --- who does what


def slice_of_rank(count: int) -> slice:
    """Which of `count` things this process does: a contiguous part, as even as can be."""
    size, more = divmod(count, world_size())
    start = rank() * size + min(rank(), more)
    return slice(start, start + size + (rank() < more))


def of_rank(portions: Sequence[T]) -> Sequence[T]:
    """Which of the portions this process does."""
    return portions[rank() :: world_size()]


# --- what the first process alone knows


def broadcast_send(value: Any) -> None:
    """Say something, as JSON has it, to all others; they hear it by `told`."""
    if _group is not None:
        assert _group.rank == 0
        with together():
            _group.store.set(str(_group.messages), json.dumps(value))
        _group.messages += 1


def broadcast_recv() -> Any:
    """The next thing that the first process says, however long that takes.

    Raises:
        ProcessLost: if it is gone.
    """
    assert _group is not None and _group.rank > 0
    key = str(_group.messages)
    with together():
        while not _group.store.check([key]):
            time.sleep(_POLL_S)
        value = json.loads(_group.store.get(key))
    _group.messages += 1
    return value


def from_rank_zero(ask: Callable[[], Any]) -> Any:
    """What the first process answers with, as JSON has it; no other process asks."""
    if not is_rank_zero():
        return broadcast_recv()
    answer = ask()
    broadcast_send(answer)
    return answer


def path_from_rank_zero(ask: Callable[[], Path | None]) -> Path | None:
    """As `from_first`, for a path on a file system that all processes share."""

    def absolute() -> str | None:
        path = ask()
        return None if path is None else str(path.absolute())

    found = from_rank_zero(absolute)
    return None if found is None else Path(found)


# --- what all have to know


def all_gather(
    tensors: Mapping[str, Tensor], plain: Any = None
) -> list[tuple[Mapping[str, Tensor], Any]]:
    """What every process has brought, by rank; `plain` is what JSON can hold.

    With several processes the tensors come back on the CPU.
    """
    if _group is None:
        return [(tensors, plain)]
    payload = _packed(tensors, plain)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(_group.world_size)]
    with together():
        dist.all_gather(sizes, torch.tensor([len(payload)]))
        longest = max(int(size) for size in sizes)
        padded = torch.nn.functional.pad(payload, (0, longest - len(payload)))
        gathered = [torch.empty_like(padded) for _ in range(_group.world_size)]
        dist.all_gather(gathered, padded)
    return [_unpacked(part[: int(size)]) for part, size in zip(gathered, sizes, strict=True)]


def any_rank(flag: bool) -> bool:
    """Whether the flag is set in any process; all get the same answer."""
    return any(theirs for _, theirs in all_gather({}, bool(flag)))


def all_reduce(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its sum over the processes; those of one dtype travel together."""
    if _group is None:
        return
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.flatten() for tensor in bucket])
        with together():
            dist.all_reduce(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in bucket])
        for tensor, part in zip(bucket, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def all_reduce_gradients(model: nn.Module) -> None:
    """Give every process the gradient of all portions.

    A parameter that no process has a gradient for keeps none, so that the optimiser passes it over.
    """
    if _group is None:
        return
    parameters = [p for p in model.parameters() if p.requires_grad]
    has = torch.tensor([float(p.grad is not None) for p in parameters])
    all_reduce([has])
    wanted = [p for p, count in zip(parameters, has.tolist(), strict=True) if count]
    for parameter in wanted:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    all_reduce(p.grad for p in wanted if p.grad is not None)


@torch.no_grad()
def checksums(model: nn.Module) -> Tensor:  # [parameter, 2] float64
    """Sum and norm of every parameter: equal for equal weights, and in practice for no others."""
    return torch.stack(
        [
            torch.stack(
                [p.sum(dtype=torch.float64), torch.linalg.vector_norm(p, dtype=torch.float64)]
            )
            for p in model.parameters()
        ]
    )


@torch.no_grad()
def check_agreement(model: nn.Module) -> None:
    """Make sure that all processes hold the same weights; asked before they are saved.

    Raises:
        RunError: if they do not.
    """
    if _group is None:
        return
    sums_of_ranks = [tensors["sums"] for tensors, _ in all_gather({"sums": checksums(model)})]
    strays = [
        number
        for number, other in enumerate(sums_of_ranks)
        if not torch.equal(other, sums_of_ranks[0])
    ]
    if strays:
        raise RunError(
            f"the weights of process {strays[0]} are no longer those of process 0",
            where=f"{_group.world_size} processes",
            remedy="processes of one run need machines of one kind (launcher.constraint); nothing "
            "was saved, and the same command goes on from the last checkpoint",
        )


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one dtype and device, at most `_BUCKET` numbers together."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        kind = (tensor.dtype, tensor.device)
        if bucket and (
            kind != (bucket[0].dtype, bucket[0].device) or size + tensor.numel() > _BUCKET
        ):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    if bucket:
        yield bucket


def packed(tensors: Mapping[str, Tensor], plain: Any) -> bytes:
    """Tensors, and what JSON can hold, as bytes for another process."""
    from safetensors.torch import save

    head = json.dumps(plain).encode()
    body = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
    return len(head).to_bytes(8, "little") + head + body


def _packed(tensors: Mapping[str, Tensor], plain: Any) -> Tensor:  # [byte] uint8
    return torch.frombuffer(bytearray(packed(tensors, plain)), dtype=torch.uint8)


def _unpacked(payload: Tensor) -> tuple[Mapping[str, Tensor], Any]:
    return unpacked(payload.numpy().tobytes())


def unpacked(data: bytes) -> tuple[Mapping[str, Tensor], Any]:
    """What `packed` was given; the tensors are on the CPU."""
    from safetensors.torch import load

    end = 8 + int.from_bytes(data[:8], "little")
    return load(data[end:]), json.loads(data[8:end])
