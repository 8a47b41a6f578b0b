"""Llama-3.2-11B-Vision-Instruct, from the hub or a local folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from vexp.backbone._pretrained import Pretrained
from vexp.config.types import UNHASHED
from vexp.registry import register


@register("backbone", "llama3_2_vision_11b")
@dataclass(frozen=True, kw_only=True)
class Llama32Vision11B(Pretrained):
    """Llama-3.2-11B-Vision-Instruct (arXiv:2407.21783), or a local model of its architecture.

    40 decoder layers, of which 8 look at the image, up to four tiles of 560 x 560 pixels, and not
    at the text. There are no image tokens, so what reads attention on them cannot be used. The hub
    gives it to users whom Meta admitted (HF_TOKEN).
    """

    model_type = "mllama"
    lacks = ("attention", "similarity", "emits")
    depth = 40

    path: Annotated[str, UNHASHED] = "meta-llama/Llama-3.2-11B-Vision-Instruct"  # or a folder
    revision: Annotated[str | None, UNHASHED] = (
        "9eb2daaa8597bf192a8b0e73f848f3a102794df5"  # commit, tag or branch on the hub
    )
