"""What transformers itself makes of items: its own processors, and its models without vexp.

Every twin, by name; the policies and the plain models are built once and must not be changed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.processing_utils import ProcessorMixin

from tests.tiny import PROMPT
from vexp.backbone import _twin
from vexp.dataset.base import Item
from vexp.probe.layout import Layout
from vexp.registry import REGISTRY

QWEN = ("tiny_qwen2_vl", "tiny_qwen2_5_vl", "tiny_qwen3_vl")
TILED = ("tiny_internvl", "tiny_smolvlm")
CROSSED = ("tiny_mllama",)
TWINS = (*QWEN, *TILED, *CROSSED)
SIZES = {
    "layers": 3,
    "hidden_size": 64,
    "intermediate_size": 96,
    "vision_depth": 3,
    "vision_hidden_size": 32,
    "vision_heads": 2,
}


def twin(name: str) -> Any:
    return REGISTRY.get("backbone", name)(**SIZES)


@functools.cache
def policy(name: str, attention: str = "auto") -> Any:
    return twin(name).load(attention=attention)


@functools.cache
def plain(name: str) -> Any:
    """Transformers' model with the policy's weights, which vexp has not touched."""
    backbone = twin(name)
    config = _twin.configuration(backbone, policy(name).tokenizer)
    config._attn_implementation = "eager"
    model = AutoModelForImageTextToText.from_config(config)
    model.load_state_dict(policy(name).model.state_dict())
    return model.eval()


def _qwen_parts(processor: Any, tokenizer: Any) -> None:
    for kind in ("image", "video"):
        token = f"<|{kind}_pad|>"
        setattr(processor, f"{kind}_token", token)
        setattr(processor, f"{kind}_token_id", tokenizer.convert_tokens_to_ids(token))


def _internvl_parts(processor: Any, tokenizer: Any) -> None:
    processor.image_seq_length = 4
    for kind in ("start", "end"):
        token = getattr(tokenizer, f"{kind}_image_token")
        setattr(processor, f"{kind}_image_token", token)
        setattr(processor, f"{kind}_image_token_id", tokenizer.convert_tokens_to_ids(token))
    processor.image_token, processor.video_token = "<IMG_CONTEXT>", "<video>"
    processor.image_token_id = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    processor.multimodal_pattern = re.compile("(?P<image><IMG_CONTEXT>)|(?P<video><video>)")


def _smolvlm_parts(processor: Any, tokenizer: Any) -> None:
    processor.image_seq_len = 4
    processor.fake_image_token = "<fake_token_around_image>"
    processor.image_token, processor.video_token = "<image>", "<video>"
    processor.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    processor.global_image_token = "<global-img>"


def processor_of(name: str) -> Any:
    """The family's own processor, without its part for videos, which needs torchvision."""
    owner = policy(name)
    if name in CROSSED:
        build = PROCESSOR_MAPPING[type(owner.model.config)]
        template = owner.tokenizer.chat_template
        return build(owner.image_processor, owner.tokenizer, chat_template=template)
    parts = {"tiny_internvl": _internvl_parts, "tiny_smolvlm": _smolvlm_parts}.get(
        name, _qwen_parts
    )

    class ImagesOnly(PROCESSOR_MAPPING[type(owner.model.config)]):
        """Parameters' names say which parts there are."""

        def __init__(self, image_processor, tokenizer, chat_template):
            parts(self, tokenizer)
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    return ImagesOnly(owner.image_processor, owner.tokenizer, owner.tokenizer.chat_template)


def processed(name: str, items: Sequence[Item]) -> Any:
    """What transformers' own processor makes of the items, padded on the left.

    Only Qwen's takes prompts with and without an image together.
    """
    texts = []
    for thing in items:
        image = [{"type": "image"}] if thing.image else []
        text = {"type": "text", "text": f"{thing.question}\n{PROMPT.instruction}"}
        message = [{"role": "user", "content": [*image, text]}]
        written = policy(name).tokenizer.apply_chat_template(
            message, add_generation_prompt=True, tokenize=False
        )
        texts.append(written)
    images: list[Any] = [thing.image for thing in items if thing.image]
    if name in ("tiny_smolvlm", *CROSSED):
        images = [[image] for image in images]
    found = processor_of(name)(
        text=texts,
        images=images or None,
        padding=True,
        return_tensors="pt",
        add_special_tokens=False,
    )
    return {key: found[key] for key in found if key not in ("rows", "cols", "token_type_ids")}


def plain_output(
    name: str, items: Sequence[Item], row: int, response: Tensor, **options: Any
) -> tuple[Any, Tensor]:
    """Transformers' own output for one prompt and a response; where its image tokens are."""
    model, inputs = plain(name), processed(name, [items[row]])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], response[None]], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    image = inputs["input_ids"] == model.config.image_token_id
    if "cross_attention_mask" in inputs:
        seen = inputs["cross_attention_mask"]
        last = seen[:, -1:].expand(-1, len(response), -1, -1)
        inputs["cross_attention_mask"] = torch.cat([seen, last], dim=1)
    if name in QWEN:
        inputs["mm_token_type_ids"] = image.int()
        model.model.rope_deltas = None
    return model(**inputs, use_cache=False, **options), image[0]


def row_by_row(values: Tensor, layout: Layout) -> Tensor:  # [..., image token] both
    """What is in the order of the model's tokens, view by view and row by row."""
    order, before = [], 0
    for view in layout:
        down, across = view.tiles
        high, wide = view.rows // down, view.columns // across
        cells = [
            (tile_row * high + row, tile_column * wide + column)
            for tile_row in range(down)
            for tile_column in range(across)
            for row in range(high)
            for column in range(wide)
        ]
        order += [before + number for number in sorted(range(len(cells)), key=cells.__getitem__)]
        before += len(cells)
    return values[..., order]


def painted(width: int, height: int, box: tuple[int, int, int, int]) -> Image.Image:
    """A grey picture with a white box."""
    picture = Image.new("RGB", (width, height), (90, 90, 90))
    picture.paste((255, 255, 255), box)
    return picture
