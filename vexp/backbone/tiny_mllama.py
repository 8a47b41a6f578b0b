"""A tiny twin of Llama-3.2-Vision: the real transformers classes, small enough for a laptop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vexp.backbone._tiny import Tiny
from vexp.errors import Problem
from vexp.registry import register

if TYPE_CHECKING:
    from vexp.spec.run import RunSpec


@register("backbone", "tiny_mllama")
@dataclass(frozen=True, kw_only=True)
class TinyMllama(Tiny):
    """A Llama-3.2-Vision of about 1.3 million parameters, built on the spot; nothing is downloaded.

    An image is cut into up to four tiles of 56 x 56 pixels, which the text sees through every third
    decoder layer, the second first. There are no image tokens, so what reads attention on them
    cannot be used (Llama 3: arXiv:2407.21783).
    """

    model_type = "mllama"
    dialect = "MLLAMA"
    lacks = ("attention", "similarity", "emits")
    tile: ClassVar[int] = 56  # pixels

    @property
    def cross_layers(self) -> list[int]:
        """Decoder layers that look at the image, and not at the text."""
        return list(range(1, self.layers, 3))

    def problems(self, run: RunSpec) -> Iterator[Problem]:
        yield from super().problems(run)
        if self.layers < 2:
            yield Problem(
                "one decoder layer cannot see both text and image",
                where="layers",
                accepted="at least 2",
            )
