"""The answer is right if it is mathematically equal to the gold answer."""

from __future__ import annotations

import functools
import logging
import math
import re
from dataclasses import dataclass
from typing import Any

from vexp.config.types import Positive
from vexp.registry import register
from vexp.response.format import extract_answer
from vexp.verifier._compare import same_text
from vexp.verifier._quantity import Quantity, Value, read_value, same_value
from vexp.verifier._structure import infinite, read_structure, same_structure
from vexp.verifier._text import LONGEST, normalized, plain_math, wrapping_left
from vexp.verifier._unit import read_unit
from vexp.verifier.base import Verdict, Verifier

TOLERANCE = 1e-6  # relative, of decimals
PRECISION = 30  # digits that the library computes with; with its 15, 2^-98 beside x is no number
PLACES = 15  # decimal places that it rounds to where no decimals are written
# Words would be read as products of letters: "red" as r*e*d, equal to "der".
_WORDS = re.compile(r"(?=.*[^\W\d_]{2})[^\W\d_]+(?:(?:[\s-]+|')[^\W\d_]+)*")
_FUNCTIONS = (
    "sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|log|ln|exp|sqrt|pi|mod|min|max|lim"
    "|gcd|lcm|abs|det"
)
# Words beside mathematics make no answer of it: "7 is wrong", "5 or".
_WORD = re.compile(
    rf"(?<![\\a-zA-Z])(?!(?:{_FUNCTIONS})(?![a-z]))[a-z]{{4,}}|(?<![\\a-z])\b(?:or|is|not|and|if|no)\b"
    rf"|\d\s+(?!(?:{_FUNCTIONS})(?![a-z]))[a-z]{{2,}}|\d(?:st|nd|rd|th)\b",
    re.IGNORECASE,
)
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{[a-z]*\*?\}(?:\{[lcr|]*\})?")
_PRODUCT = re.compile(r"(?<=\d)\s+(?=[a-zA-Z](?![a-zA-Z]))")  # 5 i
_DEGREES = re.compile(r"(\d+\.?\d*)°")  # within a sine or cosine
_LAST_WORD = re.compile(r"\s([^\W\d]\S*)$")
_BOUND = re.compile(r"\s*(?:[<>≤≥]|\\neq)")  # `> 5` names no answer


@register("verifier", "math_verify")
@dataclass(frozen=True, kw_only=True)
class MathVerify(Verifier):
    """Symbolic equality by the math-verify library, in worker processes with a time limit.

    Quantities, lists, sets, tuples and intervals are read and compared by vexp's own reader (units,
    percent, mixed numbers, tiny and large values; decimals up to 1e-6); the library is asked for
    expressions. Equal spelling is enough; answers in words are compared by spelling only. An answer
    that neither can read has the status "unreadable".
    """

    version = 2  # 2: by the one reader of docs/answers.md

    time_limit_s: Positive = 5.0  # seconds one verdict may take; then it counts as wrong

    def prepare(self) -> None:
        logging.getLogger("math_verify").setLevel(logging.ERROR)
        self.verdict("\\boxed{\\frac{1}{2}x m/s}", "0.5x m/s")
        read_value("1 m/s")

    def verdict(self, response: str, gold: str) -> Verdict:
        extracted = extract_answer(response)
        words = _WORDS.fullmatch(plain_math(gold[:LONGEST]))
        if self.gold_problem(gold) or (self.may_take_long(gold) and not _parse(gold)):
            return Verdict(0.0, extracted, "bad_gold")
        if extracted is None:
            return Verdict(0.0, None, "no_answer")
        if words:
            return Verdict(float(same_text(extracted, gold)), extracted)
        equal = same_mathematics(extracted, gold)
        return Verdict(float(bool(equal)), extracted, "ok" if equal is not None else "unreadable")

    def gold_problem(self, gold: str) -> str | None:
        if not normalized(gold[:LONGEST]):
            return "it is empty"
        if len(gold) > LONGEST:
            return "it is too long"
        return wrapping_left(gold)

    def may_take_long(self, gold: str) -> bool:
        return not (self.gold_problem(gold) or _at_once(gold) or read_structure(gold))


def _at_once(gold: str) -> bool:
    """True if our own reader reads a gold answer, without the library."""
    plain = plain_math(gold[:LONGEST])
    return (
        bool(_WORDS.fullmatch(plain)) or read_value(gold) is not None or infinite(plain) is not None
    )


def same_mathematics(answer: str, gold: str) -> bool | None:
    """Equality by our own reader where it reads both, else by the library; None if neither can."""
    if infinite(plain_math(answer)) or infinite(plain_math(gold)):
        return infinite(plain_math(answer)) == infinite(plain_math(gold))
    mine, wanted = read_value(answer), read_value(gold)
    if mine is not None and wanted is not None:
        if _one_is_algebra(mine, wanted):
            return False
        return same_value(mine, wanted, TOLERANCE)
    if same_text(answer, gold, fold=False):
        return True
    parts, wanted_parts = read_structure(answer), read_structure(gold)
    if parts is not None and wanted_parts is not None:
        return same_structure(parts, wanted_parts, _same_part)
    if _measured(mine) or _measured(wanted):
        return None if mine is None and parts is None else False
    if normalized(answer) == normalized(gold):  # apart from case, which matters: n is not N
        return False
    parsed = _parse(answer)
    if not parsed:
        return None
    if _other_unit(answer, gold):
        return False
    return _equal(_parse(gold), parsed, _places(mine, wanted))


def _same_part(answer: str, gold: str) -> bool:
    return bool(same_mathematics(answer, gold))


def _one_is_algebra(mine: Value, wanted: Value) -> bool:
    """Difference of `2m` or `3k` from a bare number: here a letter is a variable, not left out."""
    pair = [value for value in (mine, wanted) if isinstance(value, Quantity)]
    return any(value.lettered for value in pair) and not all(v.lettered or v.unit for v in pair)


def _measured(value: Value | None) -> bool:
    """A value that the library would strip: one with a unit, or a time of day."""
    return value is not None and not (isinstance(value, Quantity) and not value.unit)


@functools.lru_cache(maxsize=512)
def _parse(answer: str) -> list[Any]:
    """Parts that the library makes of an answer; empty if it cannot read it as mathematics."""
    text = plain_math(answer)
    if len(text) > LONGEST or _BOUND.match(text) or _WORD.search(_ENVIRONMENT.sub("", text)):
        return []
    from math_verify import parse

    # Its own time limit uses signals, in the main thread only; the worker's is the one that counts.
    text = _DEGREES.sub(r"(\1\\pi/180)", _PRODUCT.sub("", text)).replace("%", "\\%")
    text = text.replace("∞", "\\infty ").replace("∪", "\\cup ")
    parts: list[Any] = parse(f"\\boxed{{{text}}}", parsing_timeout=None)
    return parts if any(not isinstance(part, str) for part in parts) else []


def _equal(wanted: list[Any], answer: list[Any], places: int) -> bool:
    from math_verify import verify

    return bool(wanted) and verify(
        wanted,
        answer,
        float_rounding=places,
        numeric_precision=PRECISION,
        timeout_seconds=None,
    )


def _places(*values: Value | None) -> int:
    """Decimal places that the library may round to: six digits of a decimal, else next to none."""
    decimals = [v.value for v in values if isinstance(v, Quantity) and v.number.rounded]
    return max((5 - math.floor(math.log10(abs(value))) for value in decimals), default=PLACES)


def _other_unit(answer: str, gold: str) -> bool:
    """True if two expressions end in different units, which the library takes off: `2x km`."""
    ends = [_LAST_WORD.search(plain_math(text)) for text in (answer, gold)]
    units = [read_unit(end[1]) if end else None for end in ends]
    return bool(units[0] and units[1]) and units[0] != units[1]
