"""What the Qwen-VL models have in common: images of any shape, between two numbers of pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vexp.backbone._pretrained import Pretrained
from vexp.config.types import PositiveInt
from vexp.errors import Problem

if TYPE_CHECKING:
    from vexp.spec.run import RunSpec


@dataclass(frozen=True, kw_only=True)
class Resized(Pretrained):
    """Images have between `min_pixels` and `max_pixels`.

    The defaults are EasyR1's limits, which EASE, VICRA and VGPO keep.
    """

    min_pixels: PositiveInt = 262_144  # smaller images are enlarged
    max_pixels: PositiveInt = 4_194_304  # larger images are shrunk

    def problems(self, run: RunSpec) -> Iterator[Problem]:
        if self.min_pixels > self.max_pixels:
            yield Problem(
                f"min_pixels ({self.min_pixels}) is more than max_pixels ({self.max_pixels})",
                where="min_pixels",
            )
        yield from super().problems(run)

    def image_settings(self, own: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "size": {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels},
            # Names that real models' files have beside or instead of `size`, which they overrule.
            "min_pixels": self.min_pixels,
            "max_pixels": self.max_pixels,
        }
