"""The answer is right if it names the gold option, by letter or by text."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vexp.registry import register
from vexp.train.responses import extract_answer
from vexp.verifier._text import plain_math, same_text
from vexp.verifier.base import Verdict, Verifier

_LEAD = r"(?:(?:the\s+)?(?:correct\s+)?(?:option|choice|answer)\s*(?:is)?\s*:?\s*)?"
_LETTER = re.compile(rf"{_LEAD}[(\[]?\s*([a-z])\s*[)\]]?\s*[.:]?", re.IGNORECASE)
_LETTER_AND_TEXT = re.compile(
    rf"{_LEAD}(?:[(\[]\s*([a-z])\s*[)\]]\s*[.:]?|([a-z])\s*[).:])\s*(\S.*)",
    re.IGNORECASE | re.DOTALL,
)


@register("verifier", "multiple_choice")
@dataclass(frozen=True, kw_only=True)
class MultipleChoice(Verifier):
    """Compares option letters; the gold answer may be `B`, `(B) a cat`, or just `a cat`.

    A letter is taken only from an answer that is a letter ("B", "(b).", "option B") or begins with
    one ("B. a cat"), never from within other words. Without a letter, the option's text decides.
    Where the gold answer has no letter and the answer no text, they cannot be compared and differ.
    """

    def verdict(self, response: str, gold: str) -> Verdict:
        extracted = extract_answer(response)
        wanted_letter, wanted_text = _option(gold)
        if wanted_letter is None and not wanted_text:
            return Verdict(0.0, extracted, "bad_gold")
        if extracted is None:
            return Verdict(0.0, None, "no_answer")
        letter, text = _option(extracted)
        if letter is not None and wanted_letter is not None:
            return Verdict(float(letter == wanted_letter), extracted)
        return Verdict(float(bool(text) and same_text(text, wanted_text)), extracted)


def _option(answer: str) -> tuple[str | None, str]:
    """The letter (upper case) and the text of an option; either may be missing."""
    answer = plain_math(answer)
    if match := _LETTER.fullmatch(answer):
        return match[1].upper(), ""
    if match := _LETTER_AND_TEXT.fullmatch(answer):
        return (match[1] or match[2]).upper(), match[3]
    return None, answer
