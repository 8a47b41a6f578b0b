"""Qwen3-VL-4B-Instruct, from the hub or a local folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from vexp.backbone._resized import Resized
from vexp.config.types import UNHASHED
from vexp.registry import register


@register("backbone", "qwen3_vl_4b")
@dataclass(frozen=True, kw_only=True)
class Qwen3VL4B(Resized):
    """Qwen3-VL-4B-Instruct (arXiv:2511.21631), or a local model of its architecture.

    36 decoder layers; one image token covers 32 x 32 pixels.
    """

    model_type = "qwen3_vl"
    depth = 36

    path: Annotated[str, UNHASHED] = "Qwen/Qwen3-VL-4B-Instruct"  # folder or hub name
    revision: Annotated[str | None, UNHASHED] = (
        "ebb281ec70b05090aa6165b016eac8ec08e71b17"  # commit, tag or branch on the hub
    )
