"""The last layer."""

from __future__ import annotations

from dataclasses import dataclass

from vexp.layer.base import Layer
from vexp.registry import register


@register("layer", "last")
@dataclass(frozen=True, kw_only=True)
class Last(Layer):
    """N - 1 of N layers, counted from 0: the final layer of EASE's ablation, and where SAYO looks.

    Breaks, when supervised, the layer that also has to write the next token.
    """

    def index(self, layers: int) -> int:
        return layers - 1
