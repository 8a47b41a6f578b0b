"""Qwen2.5-VL-7B-Instruct, from the hub or a local folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from vexp.backbone._resized import Resized
from vexp.config.types import UNHASHED
from vexp.registry import register


@register("backbone", "qwen2_5_vl_7b")
@dataclass(frozen=True, kw_only=True)
class Qwen25VL7B(Resized):
    """Qwen2.5-VL-7B-Instruct (arXiv:2502.13923), or a local model of its architecture.

    28 decoder layers; one image token covers 28 x 28 pixels.
    """

    model_type = "qwen2_5_vl"
    depth = 28

    path: Annotated[str, UNHASHED] = "Qwen/Qwen2.5-VL-7B-Instruct"  # folder or hub name
    revision: Annotated[str | None, UNHASHED] = (
        "cc594898137f460bfe9f0759e9844b3ce807cfb5"  # commit, tag or branch on the hub
    )
