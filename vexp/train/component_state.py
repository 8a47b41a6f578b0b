"""What components remember between steps; the loop owns it, and a checkpoint holds it.

A memory is a dictionary of tensors and of values that JSON can hold. In a checkpoint the tensors
lie in one safetensors file, named `path/name` by the component's dotted path, and the rest in JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vexp.registry import ComponentState

if TYPE_CHECKING:
    from torch import Tensor

    from vexp.spec.run import RunSpec

FILTER = "group_filter"  # the path under which a group filter's memory is kept


def initial(run: RunSpec) -> dict[str, ComponentState]:
    """What the run's components remember before the first step, by their dotted paths."""
    found = {path: component.initial_state() for path, component in run.components()}
    return {path: state for path, state in found.items() if state is not None}


def split(
    memory: Mapping[str, ComponentState],
) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """The tensors by `path/name`, and everything else by path and name."""
    import torch

    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for path, state in memory.items():
        plain[path] = {}
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{path}/{name}"] = value.detach().cpu().contiguous()
            else:
                plain[path][name] = value
    return tensors, plain


def joined(
    tensors: Mapping[str, Tensor], plain: Mapping[str, Mapping[str, Any]]
) -> dict[str, ComponentState]:
    """What `split` took apart."""
    found: dict[str, dict[str, Any]] = {path: dict(state) for path, state in plain.items()}
    for key, tensor in tensors.items():
        path, _, name = key.partition("/")
        found[path][name] = tensor
    return dict(found)
