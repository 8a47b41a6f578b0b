"""Tiny random models of every family and ragged inputs for them, without processor or tokenizer.

Text models have 4 heads over 2 kv heads and weights large enough that attention is far from
uniform. A tile is 4 image tokens, except in Mllama, where it is 5 keys of the cross-attention.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

IMAGE, VOCABULARY = 90, 96
SIZE, PATCH = 16, 4  # pixels
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class Row:
    """A prompt: text tokens, the tokens of an image of some tiles, text tokens."""

    before: int
    tiles: int
    after: int


ROWS = (Row(before=2, tiles=1, after=5), Row(before=3, tiles=2, after=8))


@dataclass(frozen=True)
class Batch:
    """Left-padded inputs of a family's forward, and where its image tokens are."""

    inputs: dict[str, Any]
    image_index: Tensor  # [row, image token] among the keys of the probed layers
    image_mask: Tensor
    sighted: Tensor  # [row, query] bool: not padding, and after the image


@dataclass(frozen=True)
class Family:
    """How to build a model and what one of its forwards wants."""

    model: Callable[[], Any]
    batch: Callable[[Sequence[Row]], Batch]
    layers: tuple[int, int] = (1, 3)  # an early one and the last one that read images


def fresh(name: str) -> Any:
    """A new model, equal each time."""
    torch.manual_seed(0)
    model = FAMILIES[name].model().eval()
    torch.manual_seed(1)
    for layer in model.get_decoder().layers:
        for key, weight in layer.named_parameters():
            if key.endswith("_gate"):
                weight.data.fill_(0.5)
            elif weight.ndim == 2:
                weight.data.normal_(std=0.2)
    return model


@functools.cache
def shared(name: str) -> Any:
    """A model for tests that change nothing but its attention implementation."""
    return fresh(name)


def attention_of(model: Any, layer: int) -> Any:
    """The attention module of a layer of the language model."""
    block = model.get_decoder().layers[layer]
    return block.self_attn if hasattr(block, "self_attn") else block.cross_attn


def use(model: Any, kernel: str) -> Any:
    """The model, its language model's attention done by a kernel and its vision tower's by sdpa."""
    model.set_attn_implementation({"": "sdpa", "vision_config": "sdpa", "text_config": kernel})
    return model


def continued(model: Any, batch: Batch, tokens: Tensor) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs of a forward over one more token [row, 1]; and of the same from a filled cache."""
    inputs = dict(batch.inputs)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], tokens], dim=1)
    mask = inputs["attention_mask"]
    inputs["attention_mask"] = torch.cat([mask, torch.ones_like(tokens)], dim=1)
    step = {"input_ids": tokens, "attention_mask": inputs["attention_mask"]}
    if "mm_token_type_ids" in inputs:
        types = inputs["mm_token_type_ids"]
        inputs["mm_token_type_ids"] = torch.cat([types, torch.zeros_like(tokens)], dim=1)
        # As `generate` does; by itself a forward gives a step the positions of all its keys.
        step["position_ids"] = model.model.get_rope_index(**inputs)[0][..., -1:]
    if "cross_attention_mask" in inputs:
        last = inputs["cross_attention_mask"][:, -1:]
        inputs["cross_attention_mask"] = torch.cat([inputs["cross_attention_mask"], last], dim=1)
        step["cross_attention_mask"] = last
    return inputs, step


def _prompts(rows: Sequence[Row], image_tokens: Callable[[Row], int]) -> dict[str, Tensor]:
    """Left-padded `input_ids` and `attention_mask`."""
    generator = torch.Generator().manual_seed(2)
    longest = max(row.before + image_tokens(row) + row.after for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        length = row.before + image_tokens(row) + row.after
        ids[number, -length:] = torch.randint(3, IMAGE, (length,), generator=generator)
        start = longest - length + row.before
        ids[number, start : start + image_tokens(row)] = IMAGE
        mask[number, -length:] = 1
    return {"input_ids": ids, "attention_mask": mask}


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def _with_image_tokens(rows: Sequence[Row], **vision: Tensor) -> Batch:
    """A batch of a model that has its image tokens among the text."""
    prompts = _prompts(rows, lambda row: 4 * row.tiles)
    image = prompts["input_ids"] == IMAGE
    count = image.sum(1)
    # Positions of image tokens first, in order, then all others.
    index = (~image).long().argsort(dim=1, stable=True)[:, : int(count.max())]
    positions = torch.arange(image.shape[1])
    return Batch(
        inputs={**prompts, **vision},
        image_index=index,
        image_mask=torch.arange(index.shape[1]) < count.unsqueeze(1),
        sighted=positions > positions.mul(image).amax(1, keepdim=True),
    )


def _qwen_batch(rows: Sequence[Row]) -> Batch:
    grids = [(1, 4, 4 * row.tiles) for row in rows]
    patches = sum(height * width for _, height, width in grids)
    batch = _with_image_tokens(
        rows,
        pixel_values=_noise(patches, 3 * 2 * PATCH**2),
        image_grid_thw=torch.tensor(grids),
    )
    batch.inputs["mm_token_type_ids"] = (batch.inputs["input_ids"] == IMAGE).int()
    return batch


def _qwen_rope(**more: Any) -> dict[str, Any]:
    return {
        "rope_type": "default",
        "rope_theta": 1e4,
        "mrope_section": [2, 3, 3],
        **more,
    }


def _qwen2_vl() -> Any:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    config = Qwen2VLConfig(
        text_config={**TEXT, "rope_parameters": _qwen_rope()},
        vision_config={
            "depth": 1,
            "embed_dim": 32,
            "hidden_size": 64,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": PATCH,
        },
        image_token_id=IMAGE,
    )
    return Qwen2VLForConditionalGeneration(config)


def _qwen2_5_vl() -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        text_config={**TEXT, "rope_parameters": _qwen_rope()},
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "out_hidden_size": 64,
            "num_heads": 2,
            "patch_size": PATCH,
            "window_size": 4 * PATCH,
            "fullatt_block_indexes": [1],
        },
        image_token_id=IMAGE,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def _qwen3_vl() -> Any:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    config = Qwen3VLConfig(
        text_config={
            **TEXT,
            "head_dim": 16,
            "rope_parameters": _qwen_rope(mrope_interleaved=True),
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "out_hidden_size": 64,
            "num_heads": 2,
            "patch_size": PATCH,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=IMAGE,
    )
    return Qwen3VLForConditionalGeneration(config)


def _internvl() -> Any:
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    config = InternVLConfig(
        text_config={"model_type": "qwen2", **TEXT},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": [SIZE, SIZE],
            "patch_size": [PATCH, PATCH],
        },
        image_token_id=IMAGE,
        image_seq_length=4,
        downsample_ratio=0.5,
    )
    return InternVLForConditionalGeneration(config)


def _internvl_batch(rows: Sequence[Row]) -> Batch:
    tiles = sum(row.tiles for row in rows)
    return _with_image_tokens(rows, pixel_values=_noise(tiles, 3, SIZE, SIZE))


def _smolvlm() -> Any:
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    config = SmolVLMConfig(
        text_config={"model_type": "llama", **TEXT},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": SIZE,
            "patch_size": PATCH,
        },
        image_token_id=IMAGE,
        scale_factor=2,
        pad_token_id=0,
    )
    return SmolVLMForConditionalGeneration(config)


def _smolvlm_batch(rows: Sequence[Row]) -> Batch:
    pixels = _noise(len(rows), max(row.tiles for row in rows), 3, SIZE, SIZE)
    for number, row in enumerate(rows):
        pixels[number, row.tiles :] = 0  # which is how it tells that there is no image
    return _with_image_tokens(rows, pixel_values=pixels)


def _mllama() -> Any:
    from transformers import MllamaConfig, MllamaForConditionalGeneration

    config = MllamaConfig(
        text_config={
            **TEXT,
            "cross_attention_layers": [1, 3],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "image_size": 2 * PATCH,
            "patch_size": PATCH,
            "max_num_tiles": 2,
            "supported_aspect_ratios": [[1, 1], [1, 2]],
            "intermediate_layers_indices": [0],
            "vision_output_dim": 64,
        },
        image_token_index=IMAGE,
    )
    return MllamaForConditionalGeneration(config)


def _mllama_batch(rows: Sequence[Row]) -> Batch:
    prompts = _prompts(rows, lambda row: 1)
    tiles = torch.tensor([row.tiles for row in rows]).unsqueeze(1)
    there = torch.arange(2) < tiles
    seen = (prompts["input_ids"] == IMAGE).cumsum(1).bool()
    return Batch(
        inputs={
            **prompts,
            "pixel_values": _noise(len(rows), 1, 2, 3, 2 * PATCH, 2 * PATCH),
            "aspect_ratio_ids": tiles,
            "aspect_ratio_mask": there[:, None].long(),
            "cross_attention_mask": (seen[:, :, None, None] & there[:, None, None]).long(),
        },
        image_index=torch.arange(10).expand(len(rows), -1),
        image_mask=there.repeat_interleave(5, dim=1),
        sighted=seen,
    )


FAMILIES = {
    "qwen2_vl": Family(_qwen2_vl, _qwen_batch),
    "qwen2_5_vl": Family(_qwen2_5_vl, _qwen_batch),
    "qwen3_vl": Family(_qwen3_vl, _qwen_batch),
    "internvl": Family(_internvl, _internvl_batch),
    "smolvlm": Family(_smolvlm, _smolvlm_batch),
    "mllama": Family(_mllama, _mllama_batch),
}
