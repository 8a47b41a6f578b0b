"""Choices about a policy's model: its precision, its attention kernel, tokens it emits, LoRA."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from vexp.config.types import Count, PositiveInt

Precision = Literal["fp32", "bf16"]
Emits = Mapping[str, Collection[str]]  # special tokens, and the words that each starts from
NO_TOKENS: Emits = MappingProxyType({})
Attention = Literal["auto", "sdpa", "eager", "flash_attention_2"]


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters (LoRA, arXiv:2106.09685), which a stage trains instead of the model."""

    rank: Count = 0  # of the change of each map; 0: the model itself is trained
    alpha: PositiveInt = 32  # the change is scaled by alpha / rank
    # linear maps of the decoder that are changed, by the last part of their names
    targets: tuple[str, ...] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip
