"""AdamW with its moments in shards, by DeepSpeed's ZeRO: stages 1 and 2.

Weights stay whole in every process, and so does everything that reads them. Each process keeps the
moments of its own part of all weights, updates that part, and gets the rest from the others. With
stage 1 gradients are summed once, before the update; with stage 2 after every micro-batch, and what
waits for the next one is a process's own part.

DeepSpeed is given stand-ins for the parameters that learn. They share the weights' memory and are
in no forward pass, so that it sees neither the model nor its backward passes; gradients are handed
to it one parameter after the other, in the same order in every process. Its shard is a flat vector;
AdamW goes over the slices of parameters in it, as it would over the parameters themselves: one that
no process has a gradient for is passed over, and each has a count of its own.

Rajbhandari et al., "ZeRO" (arXiv:1910.02054).
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from vexp.errors import ConfigError, Problem
from vexp.policy import parallel

T = TypeVar("T")
OLDEST = (0, 19, 8)  # of DeepSpeed: older ones only average gradients, and count micro-batches
_BUCKET = 1 << 26  # numbers that are summed, or sent to all, at once


@dataclass(frozen=True)
class Slice:
    """Where a part of a parameter lies in a process's shard of a group."""

    parameter: int  # its number, over all groups
    offset: int  # of the part's first number in the flattened parameter
    start: int  # of the same number in the shard
    size: int


@dataclass(frozen=True)
class Shard:
    """A moment of a parameter, of which each process has its own slice, or nothing."""

    shape: torch.Size
    sizes: tuple[int, ...]  # of the slices, by process; they are the flattened whole, in order
    own: Tensor

    def gathered(self) -> Tensor:
        """The whole; every process has to ask."""
        longest = max(self.sizes)
        padded = nn.functional.pad(self.own, (0, longest - len(self.own)))
        found = [torch.empty_like(padded) for _ in self.sizes]
        with parallel.together():
            dist.all_gather(found, padded)
        parts = [part[:size] for part, size in zip(found, self.sizes, strict=True)]
        return torch.cat(parts).view(self.shape)


class ZeroAdamW(Optimizer):
    """AdamW over `groups` of parameters, as `AdamW` takes them, with DeepSpeed's ZeRO `stage`.

    Gradients are clipped to the norm `limit` within a step.

    Raises:
        ConfigError: if DeepSpeed is not installed, too old, or at work on another kind of device.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        stage: int,
        limit: float | None,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas})
        self.stage = stage
        self.norm = 0.0  # of the gradient of the last step, before clipping
        self._parameters = [p for group in self.param_groups for p in group["params"]]
        self._updates = [0 for _ in self._parameters]  # of each parameter
        self._seen: set[int] = set()  # parameters with a gradient since the last step
        self._handed, self._turns = 0, 0  # how often gradients were handed over, and have to be
        self._slices = [
            layout([p.numel() for p in group["params"]], parallel.world_size(), before)
            for group, before in zip(self.param_groups, self._firsts(), strict=True)
        ]
        self._stand_ins = [nn.Parameter(p.detach()) for p in self._parameters]
        with parallel.together(mixed=True):
            self._engine = self._started(limit)
        for parameter, other in zip(self._parameters, self._stand_ins, strict=True):
            parameter.data = other.data  # where DeepSpeed has put it
        self._within = [self._adamw(number) for number in range(len(self.param_groups))]

    def share(self, portions: Sequence[T]) -> Sequence[T]:
        """The micro-batches of an update that this process does."""
        self._turns = -(-len(portions) // parallel.world_size())
        return parallel.of_rank(portions)

    def take(self) -> None:
        """Hand over the gradients of a micro-batch; with stage 1 they wait for the step."""
        if self.stage == 2:
            self._hand_over()
            self._engine.optimizer.set_gradient_accumulation_boundary(False)
            self._engine.optimizer.reduce_gradients()

    def take_the_rest(self) -> None:
        """Once there is no micro-batch left; all processes hand over equally often."""
        if self.stage == 1:
            self._hand_over()
        while self.stage == 2 and self._handed < self._turns:
            self.take()

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all weights in all processes; if the norm is not finite they stay as they are."""
        for group, within in zip(self.param_groups, self._within, strict=True):
            for own in within.param_groups if within else ():
                own["lr"] = group["lr"]
        self._engine.step()
        self.norm = float(self._engine.get_global_grad_norm())
        if math.isfinite(self.norm):
            for index in self._seen:
                self._updates[index] += 1
        self._seen.clear()
        self._handed = 0

    def state_dict(self) -> dict[str, Any]:
        """As AdamW's, with a `Shard` in place of each moment."""
        state = {index: self._moments(index) for index, count in enumerate(self._updates) if count}
        return super().state_dict() | {"state": state}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over moments, each of them whole; a `Shard` is there already."""
        found = state_dict["state"]
        whole = {i: m for i, m in found.items() if not isinstance(m["exp_avg"], Shard)}
        for index, moments in whole.items():
            self._updates[index] = int(moments["step"])
        for within, slices in zip(self._within, self._own(), strict=True):
            if within is None:
                continue
            state = within.state_dict()
            for place, part in enumerate(slices):
                if part.parameter in whole:
                    state["state"][place] = _cut(whole[part.parameter], part)
            within.load_state_dict(state)

    def _hand_over(self) -> None:
        """What any process has a gradient for gets one in all."""
        has = torch.tensor([float(p.grad is not None) for p in self._parameters])
        parallel.all_reduce([has])
        pairs = zip(self._parameters, self._stand_ins, strict=True)
        for index, (parameter, other) in enumerate(pairs):
            if has[index]:
                self._seen.add(index)
                other.grad = (
                    torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                )
            parameter.grad = None
        self._handed += 1

    def _started(self, limit: float | None) -> Any:
        """DeepSpeed's engine around the stand-ins."""
        check(f"zero{self.stage}")
        device = self._parameters[0].device
        with _environment(device):
            deepspeed, expected = imported()
            _check_device(deepspeed, device)
            # It would compile sums of its own, through the shared memory of a single machine.
            ops = vars(deepspeed.ops).setdefault("__compatible_ops__", {})
            ops["deepspeed_shm_comm"] = False
            engine, *_ = deepspeed.initialize(
                model=nn.ParameterList(self._stand_ins),
                optimizer=_Within(self._groups_of_stand_ins(), self._update),
                config=_settings(self.stage, limit),
                dist_init_required=False,
            )
        if type(engine.optimizer) is not expected or engine.gradient_average:
            raise TypeError(f"DeepSpeed made {type(engine.optimizer).__name__} of AdamW")
        return engine

    def _groups_of_stand_ins(self) -> list[dict[str, Any]]:
        return [
            {"params": self._stand_ins[first : first + len(group["params"])], "number": number}
            for number, (first, group) in enumerate(
                zip(self._firsts(), self.param_groups, strict=True)
            )
        ]

    def _firsts(self) -> list[int]:
        """The number of each group's first parameter."""
        sizes = [len(group["params"]) for group in self.param_groups]
        return [sum(sizes[:number]) for number in range(len(sizes))]

    def _own(self) -> list[list[Slice]]:
        """This process's slices, by group."""
        return [slices[parallel.rank()] for slices in self._slices]

    def _adamw(self, number: int) -> AdamW | None:
        """AdamW over this process's slices of a group; None where it has none of it."""
        slices, flat = self._own()[number], self._flat(number)
        for part in slices:
            expected = self._parameters[part.parameter].detach().flatten()
            if not torch.equal(_of(flat, part), expected[part.offset :][: part.size]):
                raise TypeError("DeepSpeed has laid out its shards in another way than expected")
        options = {key: v for key, v in self.param_groups[number].items() if key != "params"}
        views = [nn.Parameter(_of(flat, part)) for part in slices]
        return AdamW([{"params": views} | options], fused=True) if views else None

    def _flat(self, number: int) -> Tensor:
        """This process's shard of the weights of a group, which DeepSpeed keeps beside them."""
        group = self._engine.optimizer.param_groups[number]
        found: Tensor = group["params"][0]
        return found.detach()

    def _update(self, number: int, gradient: Tensor) -> None:
        """What DeepSpeed has done to a group, once it has its part of the gradient."""
        within = self._within[number]
        if within is None:
            return
        views = within.param_groups[0]["params"]
        for view, part in zip(views, self._own()[number], strict=True):
            view.grad = _of(gradient, part) if part.parameter in self._seen else None
        within.step()
        within.zero_grad()

    def _moments(self, index: int) -> dict[str, Any]:
        number = sum(index >= first for first in self._firsts()) - 1
        by_process = [
            [part for part in slices if part.parameter == index] for slices in self._slices[number]
        ]
        sizes = tuple(sum(part.size for part in parts) for parts in by_process)
        parameter, within = self._parameters[index], self._within[number]
        found: dict[str, Any] = {"step": torch.tensor(float(self._updates[index]))}
        for key in ("exp_avg", "exp_avg_sq"):
            own = torch.empty(0, device=parameter.device)
            if within is not None and (mine := by_process[parallel.rank()]):
                view = within.param_groups[0]["params"][self._own()[number].index(mine[0])]
                own = within.state[view][key]
            found[key] = Shard(parameter.shape, sizes, own)
        return found


class _Within(Optimizer):
    """What DeepSpeed takes for the optimiser; it steps one group at a time."""

    def __init__(self, groups: list[dict[str, Any]], update: Callable[[int, Tensor], None]) -> None:
        super().__init__(groups, {})
        self._do = update

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            self._do(group["number"], group["params"][0].grad)


def layout(sizes: Sequence[int], world: int, first: int = 0) -> list[list[Slice]]:
    """The slices of a group's parameters in the shard of each process.

    The parameters follow each other; shards are of one size, which is even, and the last ones end
    in padding. `first` is the number of the group's first parameter.
    """
    length = math.ceil(sum(sizes) / (2 * world)) * 2
    found: list[list[Slice]] = [[] for _ in range(world)]
    begin = 0
    for index, size in enumerate(sizes, start=first):
        for process in range(begin // length, -(-(begin + size) // length)):
            low = max(begin, process * length)
            high = min(begin + size, (process + 1) * length)
            found[process].append(Slice(index, low - begin, low - process * length, high - low))
        begin += size
    return found


def check(shard: str) -> None:
    """See whether there is a DeepSpeed that can do this; it is not imported.

    Raises:
        ConfigError: if there is none.
    """
    wanted = ".".join(map(str, OLDEST))
    try:
        version = metadata.version("deepspeed")
    except metadata.PackageNotFoundError:
        what = "needs the package deepspeed, which is not installed"
    else:
        if tuple(int(part) for part in version.split("+")[0].split(".")[:3]) >= OLDEST:
            return
        what = f"needs deepspeed {wanted} or newer, and {version} is installed"
    raise ConfigError(
        Problem(
            f"compute.shard={shard} {what}",
            where="compute.shard",
            remedy="install vexp[deepspeed], or set compute.shard=fsdp2, which needs torch alone",
        )
    )


def imported() -> tuple[Any, type]:
    """DeepSpeed, and its optimiser for both stages. What it has to say goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        import deepspeed
        from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "`torch.distributed.all_gather_into_tensor`", FutureWarning)
    return deepspeed, DeepSpeedZeroOptimizer


def _check_device(deepspeed: Any, device: torch.device) -> None:
    """It settles on a device once, when it is first imported."""
    found = deepspeed.accelerator.get_accelerator().device_name()
    if found != device.type:
        raise ConfigError(
            Problem(
                f"DeepSpeed computes on {found} in this process, and the run on {device.type}",
                where="compute.device and compute.shard",
                remedy=f"set DS_ACCELERATOR={device.type} in the environment",
            )
        )


@contextlib.contextmanager
def _environment(device: torch.device) -> Iterator[None]:
    """What DeepSpeed reads as it starts; accelerate would take `LOCAL_RANK` for a launcher's."""
    index = torch.cuda.current_device() if device.type == "cuda" else 0
    given = {"DS_ACCELERATOR": device.type, "LOCAL_RANK": str(index)}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _settings(stage: int, limit: float | None) -> dict[str, Any]:
    """DeepSpeed's own; what it would ignore is not among them."""
    return {
        "train_micro_batch_size_per_gpu": 1,  # has to be there, and is not used
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,  # an update is over when `step` is called
        "gradient_allreduce_op": "sum",  # the loss of a process is its part of a sum
        "gradient_clipping": limit or 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": stage,
            "contiguous_gradients": False,  # would want its hooks in the backward pass
            "overlap_comm": False,
            "reduce_bucket_size": _BUCKET,
            "allgather_bucket_size": _BUCKET,
        },
    }


def _of(flat: Tensor, part: Slice) -> Tensor:
    return flat[part.start : part.start + part.size]


def _cut(moments: Mapping[str, Any], part: Slice) -> dict[str, Any]:
    """A slice of whole moments."""
    return {
        key: value
        if key == "step"
        else value.flatten()[part.offset : part.offset + part.size].clone()
        for key, value in moments.items()
    }
