"""Boxes from a model behind an endpoint: EASE's second localizer (appendix B.2; Qwen3.5-27B there).

The paper asks for normalised coordinates and does not give the prompt; the wording is ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from vexp.endpoint.parse_json import json_in, shown
from vexp.endpoint.request import ChatRequest, Picture, text_digest
from vexp.endpoint.settings import Endpoint
from vexp.localizer.base import Localizer, Located
from vexp.registry import register

if TYPE_CHECKING:
    from vexp.dataset.base import Box, Item
    from vexp.endpoint.request import Ask

SLACK = 0.01  # of a side: a coordinate may lie this far out, as rounding leaves it

_FRAMES = {
    "per_mille": "whole numbers from 0 to 1000, relative to the width and the height of the image",
    "fraction": "numbers from 0 to 1, relative to the width and the height of the image",
    "pixels": "pixels of this image, which is {width} wide and {height} high",
}
SYSTEM = """\
You point at things in images. You get an image and a phrase that names one thing in it.
Give the tightest box around the one region that the phrase names: x1, y1 is its upper left \
corner, x2, y2 its lower right corner. Coordinates are {frame}.
Answer with JSON only: {{"box": [x1, y1, x2, y2]}}. If you cannot see it: {{"box": null}}."""


@register("localizer", "vlm")
@dataclass(frozen=True, kw_only=True)
class VLMLocalizer(Localizer):
    """Asks a vision-language model for the box of a phrase."""

    endpoint: Endpoint = field(default_factory=Endpoint)  # who is asked
    # The frame it is asked for: Qwen3-VL was trained on per_mille, Qwen2.5-VL on pixels.
    coordinates: Literal["per_mille", "fraction", "pixels"] = "per_mille"  # of its answers

    def locate(self, item: Item, phrase: str, ask: Ask) -> Located | None:
        assert item.image is not None
        picture = Picture.of(item.image, self.endpoint.max_pixels)
        width, height = picture.image.size
        frame = _FRAMES[self.coordinates].format(width=width, height=height)
        request = ChatRequest(
            self.endpoint, SYSTEM.format(frame=frame), f"Phrase: {phrase}", picture
        )
        sides = {"per_mille": (1000, 1000), "fraction": (1, 1), "pixels": (width, height)}
        found = ask(request, lambda answer: read_box(answer, sides[self.coordinates]))
        if found is None:
            return None
        x1, y1, x2, y2 = found
        across, down = item.image.size
        return Located((x1 * across, y1 * down, x2 * across, y2 * down))

    def content(self) -> dict[str, Any]:
        """Hash of the prompt: another wording is another annotation."""
        return {"prompt": text_digest(SYSTEM + _FRAMES[self.coordinates])}


def read_box(answer: str, sides: tuple[int, int]) -> Box | None:
    """The box of an answer as shares of the image; `sides` is what its coordinates count up to.

    Also reads Qwen's own form, [{"bbox_2d": [x1, y1, x2, y2], "label": …}].

    Raises:
        ValueError: if there is no box with an area in the stated frame.
    """
    found = json_in(answer)
    if isinstance(found, list) and found and isinstance(found[0], dict):
        found = found[0]
    if isinstance(found, dict):
        if not {"box", "bbox_2d"} & found.keys():
            raise ValueError(f"there is no box in {shown(answer)}")
        found = found.get("box", found.get("bbox_2d"))
    if found is None or found == []:
        return None
    if not isinstance(found, list) or len(found) != 4 or not all(map(_is_number, found)):
        raise ValueError(f"a box is four numbers, not {shown(found)}")
    across, down = sides
    x1, y1, x2, y2 = (x / side for x, side in zip(found, (across, down, across, down), strict=True))
    if min(x1, y1) < -SLACK or max(x2, y2) > 1 + SLACK:
        raise ValueError(f"box {found} reaches out of the frame, {across} x {down}")
    if x2 <= x1 or y2 <= y1:
        raise ValueError(f"box {found} has no area")
    return x1, y1, x2, y2


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
