"""Low-rank adapters (LoRA, arXiv:2106.09685) through peft: what a stage trains in their place.

An adapter adds alpha / rank * B A to a linear map of the decoder, of which only A and B learn; B
starts at 0, so that training starts at the model as it is. Nothing is dropped out: the policy that
is trained has to be the one that sampled.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vexp.errors import CheckpointError, ConfigError, Problem
from vexp.policy import sharding

if TYPE_CHECKING:
    from vexp.policy.options import Lora
    from vexp.policy.policy import Policy, PolicyOutput

ADAPTER = "lora.safetensors"  # beside a saved model that has the adapters' sum in its weights
NAME = "default"  # what peft calls the one adapter of a layer


class Untrained:
    """A policy as it was before its adapters learned: the same model with them switched off."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def __call__(self, *arguments: Any, **options: Any) -> PolicyOutput:
        with _switched_off(self.policy.model):
            found: PolicyOutput = self.policy(*arguments, **options)
        return found


def attach(policy: Policy, lora: Lora, seed: int) -> None:
    """Give the decoder's maps named in `lora.targets` adapters; nothing else learns any more.

    Their first weights are a function of `seed`; they are float32, whatever the model's are.

    Raises:
        ConfigError: if peft is not installed, or the decoder has no map of one of these names.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError(
            Problem(
                "LoRA needs the package peft, which is not installed",
                where="backbone.lora.rank",
                remedy="install vexp[lora], or set backbone.lora.rank=0",
            )
        ) from error
    model = policy.model
    pattern = _pattern(model, lora.targets)
    with torch.random.fork_rng(devices=[]):  # peft draws first weights from torch's own generator
        inject_adapter_in_model(
            LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=pattern), model
        )
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for layer in _layers(model).values():
        down, up = layer.lora_A[NAME].float(), layer.lora_B[NAME].float()
        bound = 1 / math.sqrt(down.weight.shape[1])  # as a linear map's own first weights
        drawn = torch.empty(down.weight.shape).uniform_(-bound, bound, generator=generator)
        with torch.no_grad():
            down.weight.copy_(drawn)
            up.weight.zero_()
        for part in (down, up):
            part.requires_grad_(True)
    model.eval()


def adapters(model: nn.Module) -> dict[str, Tensor]:
    """The adapters' weights by name; empty where there are none."""
    return {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if ".lora_" in name
    }


def merged(model: nn.Module) -> dict[str, Tensor] | None:
    """The model's weights with its adapters in them, under its own names; None without adapters."""
    layers = _layers(model)
    if not layers:
        return None
    found = {
        name.replace(".base_layer.", "."): value
        for name, value in sharding.state_dict(model).items()
        if ".lora_" not in name
    }
    for name, layer in layers.items():
        own = layer.base_layer.weight.detach()
        change = layer.get_delta_weight(NAME).detach()
        found[f"{name}.weight"] = (own.float() + change.float()).to(own.dtype).cpu()
    return found


def restore(policy: Policy, folder: Path) -> None:
    """Give the adapters the weights that were saved beside a model.

    Raises:
        CheckpointError: if there are none, or those of other adapters.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / ADAPTER
    try:
        saved = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            "the checkpoint's adapters cannot be read",
            where=str(path),
            remedy="start the run in another results_dir, or delete this checkpoint",
        ) from error
    own = {name: p for name, p in policy.model.named_parameters() if ".lora_" in name}
    if {n: p.shape for n, p in own.items()} != {n: p.shape for n, p in saved.items()}:
        raise CheckpointError(
            "the checkpoint's adapters are not those of backbone.lora",
            where=str(path),
            remedy="set rank and targets as they were, or start in another results_dir",
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(saved[name])


def _pattern(model: Any, targets: tuple[str, ...]) -> str:
    """What the full names of the decoder's maps match that are to be adapted."""
    decoder = next(name for name, part in model.named_modules() if part is model.get_decoder())
    maps = {
        name.rpartition(".")[2]
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear) and name.startswith(f"{decoder}.")
    }
    if unknown := [target for target in targets if target not in maps]:
        raise ConfigError(
            Problem(
                f"the decoder has no linear map {unknown[0]!r}",
                where="backbone.lora.targets",
                accepted=", ".join(sorted(maps)),
            )
        )
    return rf"{re.escape(decoder)}\..*\.(?:{'|'.join(map(re.escape, targets))})"


def _layers(model: nn.Module) -> dict[str, Any]:
    return {name: part for name, part in model.named_modules() if hasattr(part, "lora_A")}


@contextlib.contextmanager
def _switched_off(model: nn.Module) -> Iterator[None]:
    layers = _layers(model).values()
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
