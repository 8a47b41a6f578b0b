"""Boxes judged by a model behind an endpoint (EASE, appendix B.3; Gemini 2.5 Flash-Lite there).

It gets the unmarked image, question, answer, phrase and coordinates. The paper does not give the
prompt; the wording is ours. EASE takes a model of another family than the extractor's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vexp.endpoint.parse_json import json_in, shown
from vexp.endpoint.request import ChatRequest, Picture, text_digest
from vexp.endpoint.settings import Endpoint
from vexp.registry import register
from vexp.validator.base import Validator

if TYPE_CHECKING:
    from vexp.dataset.base import Box, Item
    from vexp.endpoint.request import Ask

SYSTEM = """\
You check one box in an image. You get the image, a question about it, the right answer, a phrase \
and a box. The box is [x1, y1, x2, y2] in whole numbers from 0 to 1000, relative to the width and \
the height of the image; x1, y1 is its upper left corner.
It is valid if the region inside it shows what the phrase names, and if that must be looked at to \
check the answer. Where no phrase is given, only the second counts.
It is not valid if it misses the thing, or if most of it is something else.
Answer with JSON only: {"valid": true} or {"valid": false}."""


@register("validator", "vlm")
@dataclass(frozen=True, kw_only=True)
class VLMValidator(Validator):
    """Asks a vision-language model whether the box holds evidence for the answer."""

    endpoint: Endpoint = field(default_factory=Endpoint)  # who is asked

    def accepts(self, item: Item, phrase: str, box: Box, ask: Ask) -> bool:
        assert item.image is not None
        width, height = item.image.size
        x1, y1, x2, y2 = box
        shares = (x1 / width, y1 / height, x2 / width, y2 / height)
        question = "\n".join(
            [
                f"Question: {item.question}",
                f"Answer: {item.answer}",
                f"Phrase: {phrase or '(none given)'}",
                f"Box: {[round(1000 * share) for share in shares]}",
            ]
        )
        picture = Picture.of(item.image, self.endpoint.max_pixels)
        return ask(ChatRequest(self.endpoint, SYSTEM, question, picture), _read)

    def content(self) -> dict[str, Any]:
        """Hash of the prompt: another wording is another annotation."""
        return {"prompt": text_digest(SYSTEM)}


def _read(answer: str) -> bool:
    """The verdict in an answer.

    Raises:
        ValueError: if there is none.
    """
    found = json_in(answer)
    verdict = found.get("valid") if isinstance(found, dict) else None
    if not isinstance(verdict, bool):
        raise ValueError(f"there is no verdict in {shown(answer)}")
    return verdict
