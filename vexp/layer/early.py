"""A layer one third of the way up."""

from __future__ import annotations

from dataclasses import dataclass

from vexp.layer.base import Layer
from vexp.registry import register


@register("layer", "early")
@dataclass(frozen=True, kw_only=True)
class Early(Layer):
    """floor(N/3) of N layers, counted from 0: the early layer of EASE's ablation.

    EASE does not state which layer it calls early; a third is our reading.

    Breaks where evidence is chosen by what the question means: early layers have hardly read it.
    """

    def index(self, layers: int) -> int:
        return layers // 3
