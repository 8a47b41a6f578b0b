"""Reading a number out of an answer: decimals, fractions, roots, percent, units.

A small recursive-descent reader of float arithmetic. It cannot hang: the text is short, and floats
overflow where whole numbers would grow.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from vexp.verifier._text import UNIT_OF, plain_math

LONGEST = 200  # characters of an answer that can still be a number
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?)"
    r"|(?P<word>\\frac|\\sqrt|sqrt|√|\\pi|pi|π|\\times|\\cdot|\\div|×|·|÷)"
    r"|(?P<sign>[-+*/^(){}\[\]]))"
)
_SAME = {"\\times": "*", "\\cdot": "*", "×": "*", "·": "*", "\\div": "/", "÷": "/"}
_SAME |= {"√": "sqrt", "\\sqrt": "sqrt", "\\pi": "pi", "π": "pi", "[": "[", "\\frac": "frac"}
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_MIXED = re.compile(r"(?<![\d./*^)}])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])")
_NAMED = re.compile(r"[A-Za-z]\w{0,10}\s*(?:=|\\approx|≈)\s*")
_UNIT = re.compile(r"(?<=[\d.)}°%\s])\s*(°|%|[A-Za-z][A-Za-z ]*)\s*(?:\^\s*\{?([23])\}?)?$")
_SCALES = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}


@dataclass(frozen=True)
class Quantity:
    """A number and its unit (`%` for percent, empty for none)."""

    value: float
    unit: str = ""

    def equals(self, other: Quantity, tolerance: float) -> bool:
        """Equality up to a relative tolerance.

        A unit may be left out, but two units have to agree. "50%" equals "50" and "0.5" alike.
        """
        if self.unit and other.unit and self.unit != other.unit:
            return False
        if _close(self.value, other.value, tolerance):
            return True
        if (self.unit == "%") == (other.unit == "%"):
            return False
        share, plain = (self, other) if self.unit == "%" else (other, self)
        return _close(share.value / 100, plain.value, tolerance)


def read_quantity(text: str) -> Quantity | None:
    """The number that an answer consists of, or None if it is anything else."""
    text = plain_math(text).rstrip(". ")
    if not text or len(text) > LONGEST:
        return None
    named = _NAMED.match(text)
    text = text[named.end() :] if named else text
    text, unit = _without_unit(text.strip().lstrip("$€£"))
    scale = _SCALES.get(unit, 1.0)
    text = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)
    text = _MIXED.sub(r"(\1+\2/\3)", text)
    try:
        value = _Reader(text).value() * scale
    except (ValueError, ZeroDivisionError, OverflowError, RecursionError):
        return None
    if not math.isfinite(value):
        return None
    return Quantity(value, "" if unit in _SCALES else unit)


def _without_unit(text: str) -> tuple[str, str]:
    match = _UNIT.search(text)
    if not match or match[1] in ("pi", "e", "E"):
        return text, ""
    word = " ".join(match[1].casefold().split())
    return text[: match.start()], UNIT_OF.get(word, word) + (match[2] or "")


def _close(a: float, b: float, tolerance: float) -> bool:
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=0.0 if a and b else 1e-9)


class _Reader:
    """sum := product (+|- product)*; product := power (*|/ power)*; power := atom (^ power)?"""

    def __init__(self, text: str) -> None:
        self._tokens: list[str] = []
        place, text = 0, text.rstrip()
        while place < len(text):
            match = _TOKEN.match(text, place)
            if not match:
                raise ValueError(f"no number at {text[place:]!r}")
            token = match["number"] or match["word"] or match["sign"]
            self._tokens.append(_SAME.get(token, token))
            place = match.end()
        self._place = 0

    def value(self) -> float:
        value = self._sum()
        if self._place != len(self._tokens):
            raise ValueError("something is left over")
        return value

    def _next(self) -> str:
        return self._tokens[self._place] if self._place < len(self._tokens) else ""

    def _take(self, *options: str) -> str:
        token = self._next()
        if token not in options:
            return ""
        self._place += 1
        return token

    def _need(self, token: str) -> None:
        if not self._take(token):
            raise ValueError(f"expected {token!r}")

    def _sum(self) -> float:
        value = self._product()
        while sign := self._take("+", "-"):
            value += self._product() if sign == "+" else -self._product()
        return value

    def _product(self) -> float:
        value = self._power()
        while True:
            if sign := self._take("*", "/"):
                other = self._power()
                value = value * other if sign == "*" else value / other
            elif self._next() in ("sqrt", "pi", "("):  # 2\sqrt{3}, 2(3)
                value *= self._power()
            else:
                return value

    def _power(self) -> float:
        if self._take("-"):
            return -self._power()
        if self._take("+"):
            return self._power()
        base = self._atom()
        if not self._take("^"):
            return base
        raised = base ** self._power()
        if isinstance(raised, complex):
            raise ValueError("a root of a negative number")
        return float(raised)

    def _atom(self) -> float:
        for opening, closing in (("(", ")"), ("{", "}")):
            if self._take(opening):
                value = self._sum()
                self._need(closing)
                return value
        if self._take("pi"):
            return math.pi
        if self._take("frac"):
            return self._fraction()
        if self._take("sqrt"):
            return self._root()
        token = self._next()
        if not token or not (token[0].isdigit() or token[0] == "."):
            raise ValueError(f"no number at {token!r}")
        self._place += 1
        mixed = token.isdigit() and self._take("frac")  # 1\frac{1}{2}
        return float(token) + (self._fraction() if mixed else 0.0)

    def _fraction(self) -> float:
        above = self._argument()
        return above / self._argument()

    def _root(self) -> float:
        degree = 2.0
        if self._take("["):
            degree = self._sum()
            self._need("]")
        base = self._argument()
        if base < 0 and degree == 3:
            return -math.pow(-base, 1 / 3)
        return math.pow(base, 1 / degree)

    def _argument(self) -> float:
        """What follows \\frac or \\sqrt: braces, or one digit as in \\frac12."""
        token = self._next()
        if token[:1].isdigit() and len(token) > 1 and token.isdigit():
            self._tokens[self._place : self._place + 1] = [token[0], token[1:]]
        return self._atom()
