"""The layer two thirds of the way up."""

from __future__ import annotations

from dataclasses import dataclass

from vexp.layer.base import Layer
from vexp.registry import register


@register("layer", "two_thirds")
@dataclass(frozen=True, kw_only=True)
class TwoThirds(Layer):
    """floor(2N/3) of N layers, counted from 0: where EASE supervises attention.

    18 of 28 layers (Qwen2.5-VL-7B), 24 of 36 (Qwen2.5-VL-3B, Qwen3-VL-4B).

    Breaks nothing, but rests on where larger models look; in a model of few layers it is hardly
    apart from the last.
    """

    def index(self, layers: int) -> int:
        return 2 * layers // 3
