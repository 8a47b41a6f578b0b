"""Building a tiny twin: its transformers configuration, image processor and first weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vexp.backbone import _tokenizer

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedConfig

    from vexp.backbone._tiny import Tiny

MERGE = 2  # patches per image token and side, as in the real models
VOCABULARY_MULTIPLE = 64  # rows of the embedding are padded to this, as the real models pad theirs
# The maps of a block that write to its residual stream, by the end of their names.
RESIDUAL = (
    "o_proj", "down_proj", "attn.proj", "mlp.fc2", "mlp.linear_fc2", "projection_layer", "out_proj",
)  # fmt: skip


def configuration(twin: Tiny, tokenizer: Any) -> PreTrainedConfig:
    """The ordinary transformers configuration of the sizes in `twin`."""
    vocabulary = math.ceil(len(tokenizer) / VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    text = {
        "vocab_size": vocabulary,
        "hidden_size": twin.hidden_size,
        "intermediate_size": twin.intermediate_size,
        "num_hidden_layers": twin.layers,
        "num_attention_heads": twin.heads,
        "num_key_value_heads": twin.kv_heads,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
    }
    if twin.model_type in _OWN:
        return _qwen(twin, tokenizer, text)
    from vexp.backbone import _twin_tiles

    return _twin_tiles.configuration(twin, tokenizer, text)


def _qwen(twin: Tiny, tokenizer: Any, text: dict[str, Any]) -> PreTrainedConfig:
    from transformers import AutoConfig

    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in _tokenizer.SPECIAL}
    vision, own = _OWN[twin.model_type](twin)
    vision |= {
        "depth": twin.vision_depth,
        "num_heads": twin.vision_heads,
        "patch_size": twin.patch,
        "spatial_merge_size": MERGE,
    }
    return AutoConfig.for_model(
        twin.model_type,
        text_config=own | text,
        vision_config=vision,
        image_token_id=ids[_tokenizer.IMAGE],
        video_token_id=ids[_tokenizer.VIDEO],
        vision_start_token_id=ids[_tokenizer.VISION_START],
        vision_end_token_id=ids[_tokenizer.VISION_END],
        tie_word_embeddings=False,
    )


def mrope_section(head_size: int) -> list[int]:
    """Rotary frequencies for time, height and width; they sum to half the head size."""
    time = head_size // 8
    height = (head_size // 2 - time) // 2
    return [time, height, head_size // 2 - time - height]


def interleaved_section(head_size: int) -> list[int]:
    """The same where frequencies alternate between the three, in Qwen3-VL's proportions."""
    side = head_size * 5 // 32
    return [head_size // 2 - 2 * side, side, side]


def _rope(section: list[int], **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": section, **more}


def _qwen2(twin: Tiny) -> tuple[dict[str, Any], dict[str, Any]]:
    vision = {
        "embed_dim": twin.vision_hidden_size,
        "hidden_size": twin.hidden_size,  # what comes out
        "mlp_ratio": 2,
    }
    return vision, {"rope_parameters": _rope(mrope_section(twin.hidden_size // twin.heads))}


def _qwen2_5(twin: Tiny) -> tuple[dict[str, Any], dict[str, Any]]:
    vision = {
        "hidden_size": twin.vision_hidden_size,
        "intermediate_size": 2 * twin.vision_hidden_size,
        "window_size": 112,
        "fullatt_block_indexes": [twin.vision_depth - 1],
        "out_hidden_size": twin.hidden_size,
    }
    return vision, {"rope_parameters": _rope(mrope_section(twin.hidden_size // twin.heads))}


def _qwen3(twin: Tiny) -> tuple[dict[str, Any], dict[str, Any]]:
    vision = {
        "hidden_size": twin.vision_hidden_size,
        "intermediate_size": 2 * twin.vision_hidden_size,
        "out_hidden_size": twin.hidden_size,
        "num_position_embeddings": 64,  # a grid of 8 x 8, interpolated to the image's
        "deepstack_visual_indexes": list(range(max(1, min(3, twin.vision_depth - 1)))),
    }
    head_size = twin.hidden_size // twin.heads
    rope = _rope(interleaved_section(head_size), mrope_interleaved=True)
    return vision, {"head_dim": head_size, "rope_parameters": rope}


# What each family's vision tower and decoder have of their own.
_OWN: dict[str, Callable[[Tiny], tuple[dict[str, Any], dict[str, Any]]]] = {
    "qwen2_vl": _qwen2,
    "qwen2_5_vl": _qwen2_5,
    "qwen3_vl": _qwen3,
}


def image_processor(twin: Any) -> Any:
    """The family's own image processor in its PIL version, which does not need torchvision.

    Black is 0, not Qwen's -1.8: on mostly black images that constant drowns the drawing in the
    first norm, and a model of this size learns only the format for hundreds of steps.
    """
    if twin.model_type not in _OWN:
        from vexp.backbone import _twin_tiles

        return _twin_tiles.image_processor(twin)
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    token_pixels = (twin.patch * MERGE) ** 2
    return Qwen2VLImageProcessorPil(
        patch_size=twin.patch,
        merge_size=MERGE,
        image_mean=[0.0] * 3,
        image_std=[0.5] * 3,
        size={
            "shortest_edge": twin.min_image_tokens * token_pixels,
            "longest_edge": twin.max_image_tokens * token_pixels,
        },
    )


def files(twin: Tiny) -> dict[str, bytes]:
    """What AutoProcessor reads beside tokenizer and image processor."""
    if twin.model_type in _OWN:
        return {}
    from vexp.backbone import _twin_tiles

    return _twin_tiles.files(twin)


def new_model(twin: Tiny, config: PreTrainedConfig) -> Any:
    """The real transformers class with fresh weights, a pure function of sizes and `init_seed`."""
    from transformers import AutoModelForImageTextToText

    build: Any = AutoModelForImageTextToText  # transformers leaves it untyped
    model = build.from_config(config)
    initialise(model, seed=twin.init_seed)
    return model


def initialise(model: Any, *, seed: int) -> None:
    """Scaled initialisation: unit-variance signals through every layer, however small the model.

    Linear maps get std 1/sqrt(fan-in); the maps that write to a residual stream are divided by
    sqrt(2 * layers) (GPT-2); biases 0, norms 1, embeddings std 0.3, so that a learning rate of
    1e-3 moves them. With transformers' fixed std of 0.02 a model of this size learns nothing for
    hundreds of steps. Gates of cross-attention are open, though not wide.
    """
    import torch
    from torch import nn

    from vexp.backbone._family import FAMILIES

    generator = torch.Generator().manual_seed(seed)
    decoder = next(name for name, part in model.named_modules() if part is model.get_decoder())
    deep = len(model.get_decoder().layers)
    tower = len(FAMILIES[model.config.model_type].vision_blocks(model))
    with torch.no_grad():
        for name, module in model.named_modules():
            weight: Any = getattr(module, "weight", None)
            if isinstance(module, nn.Embedding):
                weight.normal_(0.0, 0.3, generator=generator)
            elif isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
                std = 1.0 / math.sqrt(weight[0].numel())
                if name.endswith(RESIDUAL):
                    std /= math.sqrt(2 * (deep if name.startswith(decoder) else tower))
                weight.normal_(0.0, std, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif weight is not None:
                weight.fill_(1.0)
            for own, parameter in module.named_parameters(recurse=False):
                if own not in ("weight", "bias"):
                    _initialise_own(own, parameter, generator)


def _initialise_own(name: str, parameter: Tensor, generator: torch.Generator) -> None:
    """A parameter that belongs to a module of the model itself: a gate, a scale, an embedding."""
    if "gate" in name:
        parameter.fill_(0.5)
    elif name.startswith("lambda"):
        parameter.fill_(1.0)
    else:
        parameter.normal_(0.0, 0.3, generator=generator)
