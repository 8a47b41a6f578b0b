"""Building a tiny twin of a family that cuts images into square tiles."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from vexp.backbone._tiny import Tiny

MERGE = 2  # patches per image token and side
MLLAMA_TILES = 4  # at most, as in the real model
# Black is 0, as in the other twins; see `_twin.image_processor`.
_NORMAL = {"image_mean": [0.0] * 3, "image_std": [0.5] * 3}


def configuration(twin: Tiny, tokenizer: Any, text: dict[str, Any]) -> PreTrainedConfig:
    """The ordinary transformers configuration of the sizes in `twin`; `text` is the decoder's."""
    build = {"internvl": _internvl, "smolvlm": _smolvlm, "mllama": _mllama}[twin.model_type]
    return build(twin, tokenizer, text)


def image_processor(twin: Any) -> Any:
    """The family's own image processor in its PIL version."""
    tile = twin.tile
    if twin.model_type == "internvl":
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
            GotOcr2ImageProcessorPil,
        )

        return GotOcr2ImageProcessorPil(
            size={"height": tile, "width": tile},
            crop_to_patches=True,
            min_patches=1,
            max_patches=twin.max_tiles,
            **_NORMAL,
        )
    if twin.model_type == "mllama":
        from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

        size = {"height": tile, "width": tile}
        return MllamaImageProcessorPil(size=size, max_image_tiles=MLLAMA_TILES, **_NORMAL)
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    return SmolVLMImageProcessorPil(
        size={"longest_edge": tile * twin.tiles_per_side},
        max_image_size={"longest_edge": tile},
        do_image_splitting=True,
        **_NORMAL,
    )


def files(twin: Any) -> dict[str, bytes]:
    """What AutoProcessor has to know beside tokenizer and image processor."""
    tokens = (twin.tile // twin.patch // MERGE) ** 2
    settings = {
        "internvl": {"processor_class": "InternVLProcessor", "image_seq_length": tokens},
        "smolvlm": {"processor_class": "SmolVLMProcessor", "image_seq_len": tokens},
        "mllama": {"processor_class": "MllamaProcessor"},
    }[twin.model_type]
    return {"processor_config.json": (json.dumps(settings, indent=2) + "\n").encode()}


def _vision(twin: Any) -> dict[str, Any]:
    return {
        "hidden_size": twin.vision_hidden_size,
        "intermediate_size": 2 * twin.vision_hidden_size,
        "num_hidden_layers": twin.vision_depth,
        "num_attention_heads": twin.vision_heads,
        "image_size": twin.tile,
        "patch_size": twin.patch,
    }


def _internvl(twin: Any, tokenizer: Any, text: dict[str, Any]) -> PreTrainedConfig:
    from transformers import InternVLConfig

    head = {"head_dim": twin.hidden_size // twin.heads}
    tokens = (twin.tile // twin.patch // MERGE) ** 2
    return InternVLConfig(
        text_config={"model_type": "qwen3", **text, **head},
        vision_config=_vision(twin),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=tokens,
        downsample_ratio=1 / MERGE,
        tie_word_embeddings=False,
    )


def _smolvlm(twin: Any, tokenizer: Any, text: dict[str, Any]) -> PreTrainedConfig:
    from transformers import SmolVLMConfig

    return SmolVLMConfig(
        text_config={"model_type": "llama", **text},
        vision_config=_vision(twin),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=MERGE,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )


def _mllama(twin: Any, tokenizer: Any, text: dict[str, Any]) -> PreTrainedConfig:
    from transformers import MllamaConfig

    vision = _vision(twin)
    vision["attention_heads"] = vision.pop("num_attention_heads")
    # What the decoder sees beside the tower's last states: what goes into layers, of one at least.
    within = list(range(max(1, twin.vision_depth - 1)))
    image = tokenizer.convert_tokens_to_ids("<|image|>")
    return MllamaConfig(
        text_config={
            **text,
            "vocab_size": image,
            "bos_token_id": tokenizer.bos_token_id,
            "cross_attention_layers": twin.cross_layers,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        vision_config={
            **vision,
            "num_global_layers": 1,
            "max_num_tiles": MLLAMA_TILES,
            "intermediate_layers_indices": within,
            "vision_output_dim": twin.vision_hidden_size * (1 + len(within)),
        },
        image_token_index=image,
    )
