"""Qwen2-VL-2B-Instruct, from the hub or a local folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from vexp.backbone._resized import Resized
from vexp.config.types import UNHASHED
from vexp.registry import register


@register("backbone", "qwen2_vl_2b")
@dataclass(frozen=True, kw_only=True)
class Qwen2VL2B(Resized):
    """Qwen2-VL-2B-Instruct (arXiv:2409.12191), or a local model of its architecture.

    28 decoder layers; one image token covers 28 x 28 pixels.
    """

    model_type = "qwen2_vl"
    depth = 28

    path: Annotated[str, UNHASHED] = "Qwen/Qwen2-VL-2B-Instruct"  # folder or hub name
    revision: Annotated[str | None, UNHASHED] = (
        "895c3a49bc3fa70a340399125c650a463535e71c"  # commit, tag or branch on the hub
    )
