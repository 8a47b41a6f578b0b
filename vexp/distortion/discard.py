"""No image at all: the prompt without its placeholder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vexp.distortion.base import Distortion
from vexp.registry import register

if TYPE_CHECKING:
    from numpy.random import Generator

    from vexp.dataset.base import Item


@register("distortion", "discard")
@dataclass(frozen=True, kw_only=True)
class Discard(Distortion):
    """Drops the image, and with it its tokens in the prompt: VICRA's default counterfactual.

    The prompt is encoded anew: there is no placeholder, the text moves up, and its positions are
    those of the shorter prompt. Boxes go too, there being nothing left for them to lie in.

    Breaks the alignment of prompts: only the tokens of the response correspond. And it asks for
    what the model was hardly trained on, a question about an image that is not there.
    """

    def apply(self, item: Item, noise: Generator) -> Item:
        if item.image is None:
            return item
        return dataclasses.replace(item, image=None, boxes=())
