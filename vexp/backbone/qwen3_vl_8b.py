"""Qwen3-VL-8B-Instruct, from the hub or a local folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from vexp.backbone._resized import Resized
from vexp.config.types import UNHASHED
from vexp.registry import register


@register("backbone", "qwen3_vl_8b")
@dataclass(frozen=True, kw_only=True)
class Qwen3VL8B(Resized):
    """Qwen3-VL-8B-Instruct (arXiv:2511.21631), or a local model of its architecture.

    36 decoder layers; one image token covers 32 x 32 pixels.
    """

    model_type = "qwen3_vl"
    depth = 36

    path: Annotated[str, UNHASHED] = "Qwen/Qwen3-VL-8B-Instruct"  # folder or hub name
    revision: Annotated[str | None, UNHASHED] = (
        "0c351dd01ed87e9c1b53cbc748cba10e6187ff3b"  # commit, tag or branch on the hub
    )
