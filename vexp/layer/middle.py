"""The layer half way up."""

from __future__ import annotations

from dataclasses import dataclass

from vexp.layer.base import Layer
from vexp.registry import register


@register("layer", "middle")
@dataclass(frozen=True, kw_only=True)
class Middle(Layer):
    """floor(N/2) of N layers, counted from 0: the central layer of EASE's ablation.

    EASE does not state which layer it calls central; half is our reading.

    Breaks like `two_thirds`: depth is a guess at where a model looks.
    """

    def index(self, layers: int) -> int:
        return layers // 2
