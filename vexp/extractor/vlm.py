"""Evidence phrases from a model behind an endpoint (EASE, appendix B.1; GPT-4.1-mini there).

The paper gives the task but not the prompt; the wording is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vexp.config.types import PositiveInt
from vexp.endpoint.parse_json import json_in, shown
from vexp.endpoint.request import ChatRequest, Picture, text_digest
from vexp.endpoint.settings import Endpoint
from vexp.extractor.base import Extractor
from vexp.registry import register

if TYPE_CHECKING:
    from vexp.dataset.base import Item
    from vexp.endpoint.request import Ask

LONGEST_PHRASE = 120  # characters; more is a sentence, not a phrase

SYSTEM = """\
You list the visual evidence for the answer to a question about an image.
Name the smallest set of visible things that someone must look at to check that the answer is \
right; not everything that the question mentions.
Each is a short noun phrase that picks out one thing in this image, e.g. "red mug left of the sink".
Never name the image, the background, the scene as a whole, or anything that has no place in the \
image, such as a number, a reason or a relation.
Answer with JSON only: {"phrases": ["...", "..."]}. If there is nothing to point at: \
{"phrases": []}."""


@register("extractor", "vlm")
@dataclass(frozen=True, kw_only=True)
class VLMExtractor(Extractor):
    """Asks a vision-language model for the smallest set of things that verify the answer."""

    endpoint: Endpoint = field(default_factory=Endpoint)  # who is asked
    most_phrases: PositiveInt = 8  # longer lists are cut

    def phrases(self, item: Item, ask: Ask) -> Sequence[str]:
        picture = Picture.of(item.image, self.endpoint.max_pixels) if item.image else None
        question = f"Question: {item.question}\nAnswer: {item.answer}"
        return ask(ChatRequest(self.endpoint, SYSTEM, question, picture), self._read)

    def content(self) -> dict[str, Any]:
        """Hash of the prompt: another wording is another annotation."""
        return {"prompt": text_digest(SYSTEM)}

    def _read(self, answer: str) -> tuple[str, ...]:
        """The phrases of an answer.

        Raises:
            ValueError: if it is no list of short phrases.
        """
        found = json_in(answer)
        if isinstance(found, dict):
            found = found.get("phrases")
        if not isinstance(found, list) or not all(isinstance(phrase, str) for phrase in found):
            raise ValueError(f"there is no list of phrases in {shown(answer)}")
        phrases = tuple(" ".join(phrase.split()) for phrase in found)
        if any(len(phrase) > LONGEST_PHRASE for phrase in phrases):
            raise ValueError(f"a phrase has more than {LONGEST_PHRASE} characters")
        return tuple(phrase for phrase in phrases if phrase)[: self.most_phrases]
