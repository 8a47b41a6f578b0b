"""InternVL3.5-8B, from the hub or a local folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from vexp.backbone._pretrained import Pretrained
from vexp.config.types import UNHASHED, PositiveInt
from vexp.registry import register


@register("backbone", "internvl3_5_8b")
@dataclass(frozen=True, kw_only=True)
class InternVL35B8(Pretrained):
    """InternVL3.5-8B (arXiv:2508.18265) as transformers has it, or a local model like it.

    36 decoder layers; an image becomes up to `max_tiles` tiles of 448 x 448 pixels, with a
    thumbnail where there are several, and each of them 16 x 16 image tokens. Only repositories
    whose name ends in -HF have this form; the others bring code of their own, which is never run.
    """

    model_type = "internvl"
    depth = 36

    path: Annotated[str, UNHASHED] = "OpenGVLab/InternVL3_5-8B-HF"  # folder or hub name
    revision: Annotated[str | None, UNHASHED] = (
        "741a7d03020411e666c6109218ab71e08151ef86"  # commit, tag or branch on the hub
    )
    max_tiles: PositiveInt = 12  # most that an image is cut into

    def image_settings(self, own: Mapping[str, Any]) -> dict[str, Any]:
        # The repository's own file says false; its processor says true.
        return {"crop_to_patches": True, "min_patches": 1, "max_patches": self.max_tiles}
