"""SmolVLM2-2.2B-Instruct, from the hub or a local folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from vexp.backbone._pretrained import Pretrained
from vexp.config.types import UNHASHED, PositiveInt
from vexp.errors import Problem
from vexp.registry import register

if TYPE_CHECKING:
    from vexp.spec.run import RunSpec

MOST_TILES = 6  # along a side, that the model's tokenizer has names for


@register("backbone", "smolvlm2_2b")
@dataclass(frozen=True, kw_only=True)
class SmolVLM2B2(Pretrained):
    """SmolVLM2-2.2B-Instruct (arXiv:2504.05299), or a local model of its architecture.

    24 decoder layers. Every image is resized to `tiles_per_side` tiles of 384 x 384 pixels along
    its longer side, as small as it may be; each tile, and the image as a whole, is 9 x 9 image
    tokens.
    """

    model_type = "smolvlm"
    depth = 24

    path: Annotated[str, UNHASHED] = "HuggingFaceTB/SmolVLM2-2.2B-Instruct"  # folder or hub name
    revision: Annotated[str | None, UNHASHED] = (
        "482adb537c021c86670beed01cd58990d01e72e4"  # commit, tag or branch on the hub
    )
    tiles_per_side: PositiveInt = 4  # along the longer side of an image

    def problems(self, run: RunSpec) -> Iterator[Problem]:
        yield from super().problems(run)
        if self.tiles_per_side > MOST_TILES:
            yield Problem(
                f"the tokenizer has no names for {self.tiles_per_side} tiles a side",
                where="tiles_per_side",
                accepted=f"at most {MOST_TILES}",
            )

    def image_settings(self, own: Mapping[str, Any]) -> dict[str, Any]:
        edge = self.tiles_per_side * int(own["max_image_size"]["longest_edge"])
        return {"size": {"longest_edge": edge}, "do_image_splitting": True}
