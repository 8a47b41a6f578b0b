"""A tiny twin of Qwen3-VL: the real transformers classes, small enough to train on a laptop."""

from __future__ import annotations

from dataclasses import dataclass

from vexp.backbone._tiny import TinyQwen
from vexp.registry import register


@register("backbone", "tiny_qwen3_vl")
@dataclass(frozen=True, kw_only=True)
class TinyQwen3VL(TinyQwen):
    """A Qwen3-VL of about 1.3 million parameters, built on the spot; nothing is downloaded.

    One image token covers 32 x 32 pixels, as in the real model; the vision tower's earlier blocks
    also enter the decoder's first layers (DeepStack), and positions are interleaved
    (Qwen3-VL: arXiv:2511.21631).
    """

    model_type = "qwen3_vl"
    patch = 16
