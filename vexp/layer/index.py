"""A layer by its number."""

from __future__ import annotations

from dataclasses import dataclass

from vexp.config.types import Count
from vexp.errors import ConfigError, Problem
from vexp.layer.base import Layer
from vexp.registry import register


@register("layer", "index")
@dataclass(frozen=True, kw_only=True)
class Index(Layer):
    """The decoder layer with the given number, counted from 0.

    Breaks when the backbone changes: the same number is another depth in another model.
    """

    value: Count  # 0 is the layer behind the embeddings

    def index(self, layers: int) -> int:
        """`value`.

        Raises:
            ConfigError: if the model has too few layers.
        """
        if self.value >= layers:
            raise ConfigError(
                Problem(
                    f"layer {self.value} does not exist: the backbone has {layers} decoder layers",
                    where="value",
                    accepted=f"expected 0 to {layers - 1}",
                    remedy="choose another layer, or one by depth: layer=two_thirds",
                )
            )
        return self.value
