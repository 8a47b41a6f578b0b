"""Qwen2.5-VL-32B-Instruct, from the hub or a local folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from vexp.backbone._resized import Resized
from vexp.config.types import UNHASHED
from vexp.registry import register


@register("backbone", "qwen2_5_vl_32b")
@dataclass(frozen=True, kw_only=True)
class Qwen25VL32B(Resized):
    """Qwen2.5-VL-32B-Instruct (arXiv:2502.13923), or a local model of its architecture.

    64 decoder layers; one image token covers 28 x 28 pixels.
    """

    model_type = "qwen2_5_vl"
    depth = 64

    path: Annotated[str, UNHASHED] = "Qwen/Qwen2.5-VL-32B-Instruct"  # folder or hub name
    revision: Annotated[str | None, UNHASHED] = (
        "7cfb30d71a1f4f49a57592323337a4a4727301da"  # commit, tag or branch on the hub
    )
