"""Building the tiny Qwen2.5-VL: its transformers configuration, processors and first weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from vexp.backbone import _tokenizer

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLConfig

    from vexp.backbone.tiny_qwen2_5_vl import TinyQwen25VL

PATCH = 14  # pixels; as in the real Qwen2.5-VL
MERGE = 2  # patches per image token and side, so that a token covers 28 pixels
TOKEN_PIXELS = (PATCH * MERGE) ** 2
VOCABULARY_MULTIPLE = 64  # rows of the embedding are padded to this, as the real models pad theirs


def mrope_section(head_size: int) -> list[int]:
    """Rotary frequencies for time, height and width; they sum to half the head size."""
    time = head_size // 8
    height = (head_size // 2 - time) // 2
    return [time, height, head_size // 2 - time - height]


def configuration(twin: TinyQwen25VL, tokenizer: Any) -> Qwen2_5_VLConfig:
    """The ordinary transformers configuration of the sizes in `twin`."""
    from transformers import Qwen2_5_VLConfig

    ids: dict[str, Any] = {
        name: tokenizer.convert_tokens_to_ids(name) for name in _tokenizer.SPECIAL
    }
    text = {
        "vocab_size": math.ceil(len(tokenizer) / VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE,
        "hidden_size": twin.hidden_size,
        "intermediate_size": twin.intermediate_size,
        "num_hidden_layers": twin.layers,
        "num_attention_heads": twin.heads,
        "num_key_value_heads": twin.kv_heads,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": mrope_section(twin.hidden_size // twin.heads),
        },
        "bos_token_id": None,
        "eos_token_id": ids[_tokenizer.END],
        "pad_token_id": ids[_tokenizer.PAD],
        "tie_word_embeddings": False,
    }
    vision = {
        "depth": twin.vision_depth,
        "hidden_size": twin.vision_hidden_size,
        "intermediate_size": 2 * twin.vision_hidden_size,
        "num_heads": twin.vision_heads,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "window_size": 112,
        "fullatt_block_indexes": [twin.vision_depth - 1],
        "out_hidden_size": twin.hidden_size,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids[_tokenizer.IMAGE],
        video_token_id=ids[_tokenizer.VIDEO],
        vision_start_token_id=ids[_tokenizer.VISION_START],
        vision_end_token_id=ids[_tokenizer.VISION_END],
        tie_word_embeddings=False,
    )


def image_processor(twin: TinyQwen25VL) -> Any:
    """Qwen's own image processor in its PIL version, which does not need torchvision.

    Black is 0, not Qwen's -1.8: on mostly black images that constant drowns the drawing in the
    first norm, and a model of this size learns only the format for hundreds of steps.
    """
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        merge_size=MERGE,
        image_mean=[0.0] * 3,
        image_std=[0.5] * 3,
        size={
            "shortest_edge": twin.min_image_tokens * TOKEN_PIXELS,
            "longest_edge": twin.max_image_tokens * TOKEN_PIXELS,
        },
    )


def new_model(twin: TinyQwen25VL, config: Qwen2_5_VLConfig) -> Any:
    """The real transformers class with fresh weights, a pure function of sizes and `init_seed`."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    build: Any = Qwen2_5_VLForConditionalGeneration  # transformers leaves it untyped
    model = build(config)
    initialise(model, seed=twin.init_seed)
    return model


def initialise(model: Any, *, seed: int) -> None:
    """Scaled initialisation: unit-variance signals through every layer, however small the model.

    Linear maps get std 1/sqrt(fan-in); the maps that write to a residual stream are divided by
    sqrt(2 * layers) (GPT-2); biases 0, norms 1, embeddings std 0.3, so that a learning rate of
    1e-3 moves them. With transformers' fixed std of 0.02 a model of this size learns nothing for
    hundreds of steps.
    """
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(seed)
    blocks = {
        "language_model": len(model.model.language_model.layers),
        "visual": len(model.model.visual.blocks),
    }
    with torch.no_grad():
        for name, module in model.named_modules():
            weight: Any = getattr(module, "weight", None)
            if isinstance(module, nn.Embedding):
                weight.normal_(0.0, 0.3, generator=generator)
            elif isinstance(module, nn.Linear | nn.Conv3d):
                std = 1.0 / math.sqrt(weight[0].numel())
                if name.endswith(("o_proj", "down_proj", "attn.proj")):
                    tower = next(part for part in name.split(".") if part in blocks)
                    std /= math.sqrt(2 * blocks[tower])
                weight.normal_(0.0, std, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif weight is not None:
                weight.fill_(1.0)
