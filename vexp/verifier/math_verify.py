"""The answer is right if it is mathematically equal to the gold answer."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any

from vexp.config.types import Positive
from vexp.registry import register
from vexp.train.responses import extract_answer
from vexp.verifier._text import normalized, plain_math, same_text
from vexp.verifier.base import Verdict, Verifier

# Words would be read as products of letters: "red" as r*e*d, equal to "der".
_WORDS = re.compile(r"[^\W\d_]{2,}(?:[\s-]+[^\W\d_]+)*")


@register("verifier", "math_verify")
@dataclass(frozen=True, kw_only=True)
class MathVerify(Verifier):
    """Symbolic equality by the math-verify library, in worker processes with a time limit.

    Equal spelling is enough; answers in words are compared by spelling only.
    """

    time_limit_s: Positive = 5.0  # seconds one verdict may take; then it counts as wrong

    def prepare(self) -> None:
        logging.getLogger("math_verify").setLevel(logging.ERROR)
        self.verdict("\\boxed{\\frac{1}{2}}", "0.5")

    def verdict(self, response: str, gold: str) -> Verdict:
        extracted = extract_answer(response)
        words = _WORDS.fullmatch(plain_math(gold))
        wanted = [] if words else _parse(gold)
        if not normalized(gold) or not (words or wanted):
            return Verdict(0.0, extracted, "bad_gold")
        if extracted is None:
            return Verdict(0.0, None, "no_answer")
        if words or same_text(extracted, gold):
            return Verdict(float(same_text(extracted, gold)), extracted)
        return Verdict(float(_equal(wanted, _parse(extracted))), extracted)


def _parse(answer: str) -> list[Any]:
    """What the library makes of an answer; empty if it cannot read it as mathematics."""
    from math_verify import parse

    # Its own time limit uses signals, in the main thread only; the worker's is the one that counts.
    found: list[Any] = parse(f"\\boxed{{{plain_math(answer)}}}", parsing_timeout=None)
    return found if any(not isinstance(part, str) for part in found) else []


def _equal(wanted: list[Any], found: list[Any]) -> bool:
    from math_verify import verify

    return bool(found) and bool(verify(wanted, found, timeout_seconds=None))
