"""A tiny twin of InternVL3.5: the real transformers classes, small enough to train on a laptop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vexp.backbone._tiny import Tiny
from vexp.config.types import PositiveInt
from vexp.registry import register


@register("backbone", "tiny_internvl")
@dataclass(frozen=True, kw_only=True)
class TinyInternVL(Tiny):
    """An InternVL3.5 of about 1.3 million parameters, built on the spot; nothing is downloaded.

    An image is cut into tiles of 56 x 56 pixels, of 2 x 2 tokens each; one of several tiles is also
    seen as a whole. The decoder is Qwen3's, as in the real model (InternVL3.5: arXiv:2508.18265).
    """

    model_type = "internvl"
    dialect = "INTERNVL"
    tile: ClassVar[int] = 56  # pixels

    max_tiles: PositiveInt = 12  # most that an image is cut into
