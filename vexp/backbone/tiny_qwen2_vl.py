"""A tiny twin of Qwen2-VL: the real transformers classes, small enough to train on a laptop."""

from __future__ import annotations

from dataclasses import dataclass

from vexp.backbone._tiny import TinyQwen
from vexp.registry import register


@register("backbone", "tiny_qwen2_vl")
@dataclass(frozen=True, kw_only=True)
class TinyQwen2VL(TinyQwen):
    """A Qwen2-VL of about 1.3 million parameters, built on the spot; nothing is downloaded.

    One image token covers 28 x 28 pixels, as in the real model; every block of the vision tower
    attends globally (Qwen2-VL: arXiv:2409.12191).
    """

    model_type = "qwen2_vl"
