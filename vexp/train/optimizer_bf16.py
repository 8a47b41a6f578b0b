"""AdamW for weights in bfloat16 that loses no update, however small it is.

A weight in bfloat16 has 8 significant bits, so an update below 1/512 of it is rounded away. Here
each weight has a second half: the 16 bits by which its float32 value differs from it. The two are
put together for the update and taken apart again, so weights move exactly as float32 ones would,
in 4 bytes. That is the purpose of Kahan summation (AnyPrecisionAdamW in torchtitan and EasyR1),
whose own second number is a rounded bfloat16: for weights near 1 at a rate of 1e-6 it stands still
after some hundred updates in one direction.

The second moment is float32: in bfloat16 `0.999 * v` is `v`, and it would never decay. The first
one decays by a tenth and is bfloat16. That is 8 bytes a weight beside the weight itself.

Loshchilov and Hutter, "Decoupled weight decay regularization" (arXiv:1711.05101); Zamirai et al.,
"Revisiting bfloat16 training" (arXiv:2010.06192) for what rounding updates does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

LOW = "low_half"  # of the weights; bits, kept as bfloat16 because gloo gathers no int16
_AT_ONCE = 1 << 24  # numbers that are updated at once: what float32 copies of them take is bounded


class SplitAdamW(Optimizer):
    """AdamW over bfloat16 weights as if they were float32; its state is of the weights' shapes.

    Weights, gradients and state may be DTensors: an update is elementwise, so each process updates
    what it has.
    """

    def __init__(
        self,
        params: Iterable[Mapping[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float = 1e-8,
    ) -> None:
        super().__init__([dict(group) for group in params], {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad.contiguous(), group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, which casts all state to the weights' dtype, but without that.

        A state without the second halves is one of plain AdamW: they begin at zero.
        """
        super().load_state_dict(state_dict)
        parameters = [p for group in self.param_groups for p in group["params"]]
        for index, known in state_dict["state"].items():
            own = self.state[parameters[index]]
            own["exp_avg_sq"] = known["exp_avg_sq"].to(parameters[index].device, torch.float32)
            own.setdefault(LOW, torch.zeros_like(parameters[index]))

    def _update(self, parameter: Tensor, gradient: Tensor, group: Mapping[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=torch.float32)
            state[LOW] = torch.zeros_like(parameter)
        state["step"] += 1
        count = int(state["step"])
        tensors = (parameter, gradient, state["exp_avg"], state["exp_avg_sq"], state[LOW])
        flat = [_local(tensor).view(-1) for tensor in tensors]
        for start in range(0, flat[0].numel(), _AT_ONCE):
            _adamw([values[start : start + _AT_ONCE] for values in flat], count, group)


def _adamw(tensors: Sequence[Tensor], count: int, group: Mapping[str, Any]) -> None:
    """Update number `count` in place: weight, gradient, moments and second half, [number] each."""
    weight, gradient, mean, square, low = tensors
    rate, (beta1, beta2) = group["lr"], group["betas"]
    gradient = gradient.float()
    first = mean.float().lerp_(gradient, 1 - beta1)
    square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    spread = square.sqrt().div_((1 - beta2**count) ** 0.5).add_(group["eps"])
    half = weight.dtype == torch.bfloat16  # some models keep a part in float32
    value = joined(weight, low) if half else weight
    value.mul_(1 - rate * group["weight_decay"])
    value.addcdiv_(first, spread, value=-rate / (1 - beta1**count))
    if half:
        split(value, weight, low)
    mean.copy_(first)


def joined(weight: Tensor, low: Tensor) -> Tensor:
    """The float32 values of bfloat16 weights and their second halves."""
    high = weight.view(torch.int16).to(torch.int32) << 16
    return (high + low.view(torch.int16)).view(torch.float32)


def split(value: Tensor, weight: Tensor, low: Tensor) -> None:
    """Put float32 values into bfloat16 weights, rounded to the nearest, and their second halves."""
    bits = value.view(torch.int32)
    high = (bits + 0x8000) >> 16
    weight.view(torch.int16).copy_(high)
    low.view(torch.int16).copy_(bits - (high << 16))


def _local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that may lie in shards."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
