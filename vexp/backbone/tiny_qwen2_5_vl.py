"""A tiny twin of Qwen2.5-VL: the real transformers classes, small enough to train on a laptop."""

from __future__ import annotations

from dataclasses import dataclass

from vexp.backbone._tiny import TinyQwen
from vexp.registry import register


@register("backbone", "tiny_qwen2_5_vl")
@dataclass(frozen=True, kw_only=True)
class TinyQwen25VL(TinyQwen):
    """A Qwen2.5-VL of about 1.3 million parameters, built on the spot; nothing is downloaded.

    One image token covers 28 x 28 pixels, as in the real model; the last block of the vision tower
    attends globally, the others within windows. The tokenizer is byte-level with one token per
    digit and per word of the digits questions (Qwen2.5-VL: arXiv:2502.13923).
    """

    model_type = "qwen2_5_vl"
