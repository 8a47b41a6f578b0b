"""Prompts encoded once and shared by all their responses.

A prompt's image and text go through the model once; what responses need of it afterwards are its
keys and values in every layer and its last hidden state. Everything here runs the model's own
transformers modules and is differentiable.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vexp.errors import ConfigError, Problem
from vexp.policy import shared_prefix as shared
from vexp.policy.options import Attention, Precision
from vexp.policy.prompts import PromptBatch
from vexp.policy.shared_prefix import SharedPrefix
from vexp.probe.attention import Probe, prepared
from vexp.probe.layout import places

if TYPE_CHECKING:
    from vexp.backbone._family import Family


@dataclass(frozen=True)
class Prefix:
    """Encoded prompts, left-padded as they came."""

    keys: list[Tensor]  # of each layer: [prompt, kv head, position, head size], after RoPE
    values: list[Tensor]
    mask: Tensor  # [prompt, position] bool
    last_hidden: Tensor  # [prompt, hidden]
    next_position: Tensor  # [prompt]
    image_index: Tensor  # [prompt, image token] their positions, as `layout.places` orders them
    image_mask: Tensor  # [prompt, image token] bool: which of them are any
    image_hidden: Tensor  # [prompt, hidden] mean over the image tokens; 0 without an image
    # [prompt, key] bool: keys of an image in the layers of cross-attention; None without them
    cross: Tensor | None = None
    cross_layers: frozenset[int] = frozenset()  # the layers that look at images and not at the text

    def rows(self, prompts: Tensor) -> Prefix:
        """A copy of the prefixes of the given prompts, in that order."""
        return Prefix(
            keys=[layer[prompts] for layer in self.keys],
            values=[layer[prompts] for layer in self.values],
            mask=self.mask[prompts],
            last_hidden=self.last_hidden[prompts],
            next_position=self.next_position[prompts],
            image_index=self.image_index[prompts],
            image_mask=self.image_mask[prompts],
            image_hidden=self.image_hidden[prompts],
            cross=None if self.cross is None else self.cross[prompts],
            cross_layers=self.cross_layers,
        )

    def shared(self) -> SharedPrefix:
        """The prefixes in the form the attention function takes."""
        bias = None
        if not bool(self.mask.all()):
            bias = torch.zeros_like(self.mask, dtype=self.values[0].dtype)
            bias = bias.masked_fill(~self.mask, -torch.inf)[:, None, None]
        return SharedPrefix(self.keys, self.values, bias)


class _Opaque:
    """What a decoder hands on to its layers; FSDP2 takes no part of it for a layer's own input.

    It looks for tensors with a gradient in all arguments of a layer, dataclasses included, and
    would give the layer a changed copy, so that what is noted there never came back.
    """

    def __init__(self, content: object) -> None:
        self._content = content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)


@dataclass(frozen=True)
class CrossLayer:
    """What a decoder looks up in a cache for a layer of cross-attention: an image's keys."""

    keys: Tensor
    values: Tensor

    @property
    def is_initialized(self) -> bool:
        return True


def cross_layers(keys: Sequence[Tensor], values: Sequence[Tensor]) -> list[CrossLayer]:
    """All layers in the form that a decoder finds those of cross-attention in."""
    return [CrossLayer(*pair) for pair in zip(keys, values, strict=True)]


@dataclass
class _Recorder:
    """Stands in for a transformers cache: keeps each layer's keys and values, with gradients."""

    found: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    layers: tuple[CrossLayer, ...] = ()  # nothing is known of an image before

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        if layer not in self.found:  # a recomputation in the backward pass comes second
            # Under autocast RoPE leaves keys in float32; attention takes the values' precision.
            self.found[layer] = keys.to(values.dtype), values
        return keys, values

    def all(self, layers: int) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values of every layer; empty ones of a layer that was left out."""
        like = next(iter(self.found.values()))
        none = tuple(tensor[:, :, :0] for tensor in like)
        pairs = [self.found.get(layer, none) for layer in range(layers)]
        return [keys for keys, _ in pairs], [values for _, values in pairs]


@dataclass
class _Continuation:
    """Stands in for a transformers cache that already holds the prefix of each row."""

    prefix: Prefix

    @property
    def layers(self) -> list[CrossLayer]:
        return cross_layers(self.prefix.keys, self.prefix.values)

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        before = self.prefix.keys[layer], self.prefix.values[layer]
        return torch.cat([before[0], keys], dim=2), torch.cat([before[1], values], dim=2)


@dataclass
class _Images(_Continuation):
    """The same where the text's prefix is known to attention itself."""

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        return keys, values


def encode(
    model: Any, family: Family, kernel: str, prompts: PromptBatch, probe: Probe | None = None
) -> Prefix:
    """Run vision tower and decoder over the prompts; `probe` reads the row of their last token."""
    embeds = model.get_input_embeddings()(prompts.input_ids)
    image = family.image_tokens(model.config, prompts.input_ids)
    index, there = places(image, prompts.layouts)
    recorder, arguments = _Recorder(), {}
    if probe is not None:
        probe.image_index, probe.image_mask = index, there
        last = prompts.input_ids.shape[1] - 1
        probe.rows = torch.full((len(prompts), 1), last, device=image.device)
        arguments = {"probe": _Opaque(probe)}
    sighted = family.sighted(model, embeds, image, prompts)
    allowed = sighted.get("cross_attention_mask")
    output = model.get_decoder()(
        **sighted,
        **prepared(causal_mask(kernel, prompts.attention_mask)),
        position_ids=family.decoder_positions(prompts.position_ids),
        past_key_values=_Opaque(recorder),
        **arguments,
    )
    hidden = output.last_hidden_state
    share = image / image.sum(dim=1, keepdim=True).clamp(min=1)
    keys, values = recorder.all(len(model.get_decoder().layers))
    return Prefix(
        keys=keys,
        values=values,
        mask=prompts.attention_mask,
        last_hidden=hidden[:, -1],
        next_position=prompts.next_position,
        image_index=index,
        image_mask=there,
        image_hidden=(share.to(hidden.dtype).unsqueeze(1) @ hidden).squeeze(1),
        cross=None if allowed is None else allowed[:, 0, -1],
        cross_layers=frozenset(
            getattr(model.config.get_text_config(), "cross_attention_layers", ())
        ),
    )


def extend(
    model: Any,
    family: Family,
    kernel: str,
    prefix: Prefix,
    tokens: Tensor,
    mask: Tensor,
    prompt_index: Tensor,
    probe: Probe | None = None,
) -> Tensor:  # [rollout, token, hidden]
    """Run the decoder over responses that follow their prefixes.

    `probe` is told where the image tokens are. Fastest where rollouts are sorted by prompt, with as
    many for each: then no prefix is copied.
    """
    positions = prefix.next_position[prompt_index].unsqueeze(1)
    positions = positions + torch.arange(tokens.shape[1], device=tokens.device)
    arguments: dict[str, Any] = {
        "inputs_embeds": model.get_input_embeddings()(tokens),
        "position_ids": family.decoder_positions(positions.expand(3, -1, -1)),
        "use_cache": False,  # else transformers makes a cache of its own and copies into it
    }
    if not (kernel == shared.NAME and _in_equal_groups(prompt_index, len(prefix.mask))):
        prefix = prefix.rows(prompt_index)
    if kernel == shared.NAME:
        # Responses are padded on the right, where causal attention never looks: no mask is needed.
        arguments |= prepared(None) | {"shared_prefix": _Opaque(prefix.shared())}
        if prefix.cross is not None:
            arguments |= {"past_key_values": _Opaque(_Images(prefix))}
    else:
        keys = causal_mask(kernel, torch.cat([prefix.mask, mask], dim=1), tokens.shape[1])
        arguments |= prepared(keys) | {"past_key_values": _Opaque(_Continuation(prefix))}
    arguments |= seeing(prefix, len(tokens))
    if probe is not None:
        probe.image_index, probe.image_mask = prefix.image_index, prefix.image_mask
        arguments |= {"probe": _Opaque(probe)}
    hidden: Tensor = model.get_decoder()(**arguments).last_hidden_state
    return hidden


def seeing(prefix: Prefix, rows: int) -> dict[str, Any]:
    """A decoder's arguments by which rows that follow their prefixes look at images.

    As many consecutive rows belong to each prefix.
    """
    if prefix.cross is None:
        return {}
    sighted = prefix.cross.any(dim=1).repeat_interleave(rows // len(prefix.cross))
    return {
        "cross_attention_mask": prefix.cross[:, None, None],
        "full_text_row_masked_out_mask": sighted[:, None, None, None].to(prefix.last_hidden.dtype),
    }


def whole(
    model: Any, family: Family, prompts: PromptBatch, tokens: Tensor, prompt_index: Tensor
) -> Tensor:  # [rollout, token, hidden]
    """States that predict the response tokens, each response behind a copy of its prompt.

    For prompts without images, which are short, on a CPU and without gradients: one causal kernel
    is cheaper than two parts that are merged. It rounds in another way than `extend`.
    """
    length = prompts.attention_mask.sum(dim=1)[prompt_index].unsqueeze(1)
    ids = torch.cat([prompts.input_ids[prompt_index], tokens], dim=1)
    place = torch.arange(ids.shape[1], device=ids.device)
    padding = prompts.input_ids.shape[1] - length
    ids = ids.gather(1, (place + padding) % ids.shape[1])  # what was on the left goes to the end
    hidden: Tensor = model.get_decoder()(
        inputs_embeds=model.get_input_embeddings()(ids),
        position_ids=family.decoder_positions(place.expand(3, len(ids), -1)),
        use_cache=False,
        causal=True,
        **prepared(None),
    ).last_hidden_state
    predicting = (length - 1 + place[: tokens.shape[1]]).unsqueeze(-1)
    return hidden.gather(1, predicting.expand(-1, -1, hidden.shape[-1]))


def _in_equal_groups(prompt_index: Tensor, prompts: int) -> bool:
    """Whether the rows are sorted by prompt, with the same number for each."""
    size, rest = divmod(len(prompt_index), prompts)
    order = torch.arange(prompts, device=prompt_index.device)
    return rest == 0 and bool((prompt_index == order.repeat_interleave(size)).all())


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
    return mask_for(kernel, allowed.unsqueeze(1))


def mask_for(kernel: str, allowed: Tensor) -> Tensor:  # [row, 1, query, key]
    """A boolean mask as the kernel wants it: eager attention adds its mask."""
    if kernel != "eager":
        return allowed
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill(~allowed, -torch.inf)


def choose_kernel(attention: Attention, device: str, precision: Precision) -> str:
    """The attention implementation to use; `auto` is flash where it can work, else SDPA.

    On a CPU, SDPA is our shared-prefix attention, which calls the same torch kernel.

    Raises:
        ConfigError: if flash attention is asked for where it cannot run.
    """
    on_cuda = device.startswith("cuda")
    lacks = []
    if importlib.util.find_spec("flash_attn") is None:
        lacks.append("the package flash-attn is not installed")
    if not on_cuda:
        lacks.append(f"the device is {device}")
    if precision != "bf16":
        lacks.append(f"the precision is {precision}")
    if attention == "flash_attention_2" and lacks:
        raise ConfigError(
            Problem(
                f"flash_attention_2 cannot run here: {', '.join(lacks)}",
                where="compute.attention",
                accepted="it needs flash-attn, a CUDA device and compute.precision=bf16",
                remedy="set compute.attention=auto",
            )
        )
    if attention == "auto":
        attention = "sdpa" if lacks else "flash_attention_2"
    return shared.NAME if attention == "sdpa" and not on_cuda else attention
