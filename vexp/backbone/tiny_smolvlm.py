"""A tiny twin of SmolVLM2: the real transformers classes, small enough to train on a laptop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vexp.backbone._tiny import Tiny
from vexp.config.types import PositiveInt
from vexp.errors import Problem
from vexp.registry import register

if TYPE_CHECKING:
    from vexp.spec.run import RunSpec


@register("backbone", "tiny_smolvlm")
@dataclass(frozen=True, kw_only=True)
class TinySmolVLM(Tiny):
    """A SmolVLM2 of about 1.3 million parameters, built on the spot; nothing is downloaded.

    An image is resized to `tiles_per_side` tiles of 56 x 56 pixels along its longer side, of 2 x 2
    tokens each; of several tiles, one more shows it as a whole. The decoder is Llama's, as in the
    real model (SmolVLM: arXiv:2504.05299).
    """

    model_type = "smolvlm"
    dialect = "SMOLVLM"
    tile: ClassVar[int] = 56  # pixels

    tiles_per_side: PositiveInt = 2  # along the longer side of an image

    def problems(self, run: RunSpec) -> Iterator[Problem]:
        from vexp.backbone._tokenizer import MOST_TILES

        yield from super().problems(run)
        if self.tiles_per_side > MOST_TILES:
            yield Problem(
                f"the tokenizer has no names for {self.tiles_per_side} tiles a side",
                where="tiles_per_side",
                accepted=f"at most {MOST_TILES}",
            )
