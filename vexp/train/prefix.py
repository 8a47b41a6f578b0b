"""Prompts encoded once and shared by all their responses.

A prompt's image and text go through the model once; what responses need of it afterwards are its
keys and values in every layer and its last hidden state. Everything here runs the model's own
transformers modules and is differentiable.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vexp.backbone.base import Attention, Precision
from vexp.errors import ConfigError, Problem
from vexp.train.prompts import PromptBatch


@dataclass(frozen=True)
class Prefix:
    """Encoded prompts, left-padded as they came."""

    keys: Sequence[Tensor]  # of each layer: [prompt, kv head, position, head size], after RoPE
    values: Sequence[Tensor]
    mask: Tensor  # [prompt, position] bool
    last_hidden: Tensor  # [prompt, hidden]
    next_position: Tensor  # [prompt]


class _Recorder:
    """Stands in for a transformers cache: keeps each layer's keys and values, with gradients."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        self.keys.append(keys)
        self.values.append(values)
        return keys, values


class _Continuation:
    """Stands in for a transformers cache that already holds the prefix of each row."""

    def __init__(self, prefix: Prefix, prompt_index: Tensor) -> None:
        self.prefix = prefix
        self.prompt_index = prompt_index

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        before_keys = self.prefix.keys[layer][self.prompt_index]
        before_values = self.prefix.values[layer][self.prompt_index]
        return torch.cat([before_keys, keys], dim=2), torch.cat([before_values, values], dim=2)


def encode(model: Any, kernel: str, prompts: PromptBatch) -> Prefix:
    """Run vision tower and decoder over the prompts."""
    embeds = model.get_input_embeddings()(prompts.input_ids)
    if prompts.pixel_values is not None:
        features = model.model.get_image_features(prompts.pixel_values, prompts.image_grid_thw)
        image = (prompts.input_ids == model.config.image_token_id).unsqueeze(-1)
        embeds = embeds.masked_scatter(image, torch.cat(features.pooler_output).to(embeds.dtype))
    recorder = _Recorder()
    output = model.model.language_model(
        inputs_embeds=embeds,
        attention_mask={"full_attention": causal_mask(kernel, prompts.attention_mask)},
        position_ids=prompts.position_ids,
        past_key_values=recorder,
    )
    return Prefix(
        keys=recorder.keys,
        values=recorder.values,
        mask=prompts.attention_mask,
        last_hidden=output.last_hidden_state[:, -1],
        next_position=prompts.next_position,
    )


def extend(
    model: Any, kernel: str, prefix: Prefix, tokens: Tensor, mask: Tensor, prompt_index: Tensor
) -> Tensor:  # [rollout, token, hidden]
    """Run the decoder over responses that follow their prefixes."""
    steps = torch.arange(tokens.shape[1], device=tokens.device)
    positions = prefix.next_position[prompt_index].unsqueeze(1) + steps
    keys_mask = torch.cat([prefix.mask[prompt_index], mask], dim=1)
    hidden: Tensor = model.model.language_model(
        inputs_embeds=model.get_input_embeddings()(tokens),
        attention_mask={"full_attention": causal_mask(kernel, keys_mask, tokens.shape[1])},
        position_ids=positions.expand(3, -1, -1),
        past_key_values=_Continuation(prefix, prompt_index),
    ).last_hidden_state
    return hidden


def causal_mask(kernel: str, keys: Tensor, queries: int | None = None) -> Tensor | None:
    """The mask in the form the kernel takes; `queries` are the last of the positions in `keys`.

    keys is [row, position] bool. A query sees the valid keys up to itself, and itself even where it
    is padding, so that no softmax is over nothing.
    """
    if "flash" in kernel:
        return None if bool(keys.all()) else keys
    length = keys.shape[1]
    queries = length if queries is None else queries
    position = torch.arange(length, device=keys.device)
    query = position[length - queries :, None]
    allowed = (keys[:, None, :] & (position <= query)) | (position == query)
    allowed = allowed.unsqueeze(1)  # [row, 1, query, key]
    if kernel == "eager":
        return torch.zeros(allowed.shape, device=keys.device).masked_fill(~allowed, -torch.inf)
    return allowed


def choose_kernel(attention: Attention, device: str, precision: Precision) -> str:
    """The attention implementation to use; `auto` is flash where it can work, else SDPA.

    Raises:
        ConfigError: if flash attention is asked for where it cannot run.
    """
    installed = importlib.util.find_spec("flash_attn") is not None
    possible = installed and device.startswith("cuda") and precision == "bf16"
    if attention == "auto":
        return "flash_attention_2" if possible else "sdpa"
    if attention == "flash_attention_2" and not possible:
        lacks = [
            text
            for ok, text in (
                (installed, "the package flash-attn is not installed"),
                (device.startswith("cuda"), f"the device is {device}"),
                (precision == "bf16", f"the precision is {precision}"),
            )
            if not ok
        ]
        raise ConfigError(
            Problem(
                f"flash_attention_2 cannot run here: {', '.join(lacks)}",
                where="compute.attention",
                accepted="it needs flash-attn, a CUDA device and compute.precision=bf16",
                remedy="set compute.attention=auto",
            )
        )
    return attention
