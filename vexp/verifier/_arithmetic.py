"""Exact arithmetic on the start of a text: decimals, fractions, powers, roots, π.

A small recursive-descent reader. Fractions stay fractions and whole numbers whole, however large;
only roots and π become floats. It cannot hang: length, depth and the size of powers are bounded.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

LONGEST = 1_000  # characters of a number
_DEPTH = 40  # nested brackets
_BITS = 20_000  # size of a power
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+(?![\w.]))?)"
    r"|(?P<word>\\frac|\\sqrt|sqrt(?![a-z])|√|\\pi(?![a-z])|pi(?![a-z])|π"
    r"|\\times|\\cdot(?![a-z])|\\div|\*\*|×|·|÷)"
    r"|(?P<sign>[-+*/^(){}\[\]]))"
)
_SAME = {"\\times": "*", "\\cdot": "*", "×": "*", "·": "*", "\\div": "/", "÷": "/", "**": "^"}
_SAME |= {"√": "sqrt", "\\sqrt": "sqrt", "\\pi": "pi", "π": "pi", "\\frac": "frac"}
_TIMES_TEN = re.compile(r"(?<=[\d.])\s*[xX]\s*(?=10\s*(?:\^|\*\*))")
_MIXED = re.compile(r"(?<![\d./*^)}])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{?(\d+)\}?")


@dataclass(frozen=True)
class Number:
    """A value, exact where it is a fraction; `rounded` if it was written with decimals.

    `literal` if it was written as plain digits, with nothing to compute.
    """

    value: Fraction | float
    rounded: bool = False
    literal: bool = False

    @property
    def is_integer(self) -> bool:
        """True for an exact integer, written without decimals or with zeros only."""
        return not self.rounded and isinstance(self.value, Fraction) and self.value.denominator == 1

    @property
    def endless(self) -> bool:
        """True for an exact value whose decimals never end: 1/3, √2, π."""
        if self.rounded or not isinstance(self.value, Fraction):
            return not self.rounded
        rest = self.value.denominator
        for prime in (2, 5):
            while rest % prime == 0:
                rest //= prime
        return rest != 1

    def times(self, factor: Fraction | int) -> Number:
        return Number(self.value * factor, self.rounded)


def read_number(text: str) -> tuple[Number, str] | None:
    """The number that a text begins with and what follows it; None if it begins with none.

    The text has the spelling of `_text.plain_math`, without separators of thousands.
    """
    if len(text) > LONGEST:
        return None
    text = _MIXED.sub(r"(\1+\2/\3)", _TIMES_TEN.sub("*", _REPEATING.sub(_repeated, text)))
    try:
        return _Reader(text).read()
    except (ValueError, ZeroDivisionError, OverflowError):
        return None


def _repeated(match: re.Match[str]) -> str:
    before, first, again = match[1] or "0", match[2], match[3]
    nines = "9" * len(again) + "0" * len(first)
    return f"(({int(before + first + again)}-{int(before + first)})/{nines})"


class _Reader:
    """sum := product (+|- product)*; product := power (*|/ power)*; power := atom (^ power)?"""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, int]] = []  # and where each begins
        place = 0
        while match := _TOKEN.match(text, place):
            token = match["number"] or match["word"] or match["sign"]
            self._tokens.append((_SAME.get(token, token), match.start(match.lastgroup or 0)))
            place = match.end()
        self._end = place
        self._place = self._depth = 0
        self._rounded = False

    def read(self) -> tuple[Number, str]:
        value = self._sum()
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("not finite")
        left = self._place < len(self._tokens)
        rest = self._text[self._tokens[self._place][1] if left else self._end :]
        read = [token for token, _ in self._tokens[: self._place]]
        literal = len([token for token in read if token not in ("-", "+")]) == 1
        return Number(value, self._rounded, literal and read[-1].replace(".", "").isdigit()), rest

    def _next(self) -> str:
        return self._tokens[self._place][0] if self._place < len(self._tokens) else ""

    def _take(self, *options: str) -> str:
        token = self._next()
        if token not in options:
            return ""
        self._place += 1
        return token

    def _need(self, token: str) -> None:
        if not self._take(token):
            raise ValueError(f"expected {token!r}")

    def _sum(self) -> Fraction | float:
        value = self._product()
        while sign := self._take("+", "-"):
            value += self._product() if sign == "+" else -self._product()
        return value

    def _product(self) -> Fraction | float:
        value = self._power()
        while True:
            if self._next() == "/" and self._place + 1 == len(self._tokens):
                return value  # the slash of a unit: 5 /s
            if sign := self._take("*", "/"):
                other = self._power()
                value = value * other if sign == "*" else value / other
            elif self._next() in ("sqrt", "pi", "(", "frac"):  # 2\sqrt{3}, 2(3)
                value *= self._power()
            else:
                return value

    def _power(self) -> Fraction | float:
        self._depth += 1
        if self._depth > _DEPTH:
            raise ValueError("too deep")
        try:
            if self._take("-"):
                return -self._power()
            if self._take("+"):
                return self._power()
            base = self._atom()
            return _raised(base, self._power()) if self._take("^") else base
        finally:
            self._depth -= 1

    def _atom(self) -> Fraction | float:
        for opening, closing in (("(", ")"), ("{", "}"), ("[", "]")):
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
        return self._literal(token) + (self._fraction() if mixed else 0)

    def _literal(self, token: str) -> Fraction:
        mantissa, _, exponent = token.casefold().partition("e")
        if len(exponent.lstrip("+-")) > 3:
            raise ValueError("too large")
        self._rounded |= bool(mantissa.partition(".")[2].strip("0"))
        return Fraction(mantissa) * Fraction(10) ** int(exponent or 0)

    def _fraction(self) -> Fraction | float:
        above = self._argument()
        return above / self._argument()

    def _root(self) -> Fraction | float:
        degree: Fraction | float = Fraction(2)
        if self._take("["):
            degree = self._sum()
            self._need("]")
        base = self._argument()
        if base < 0 and degree == 3:
            return -_raised(-base, Fraction(1, 3))
        return _raised(base, 1 / degree)

    def _argument(self) -> Fraction | float:
        """The argument of \\frac or \\sqrt: braces, or one digit as in \\frac12."""
        token, start = self._tokens[self._place] if self._next() else ("", 0)
        if token[:1].isdigit() and len(token) > 1 and token.isdigit():
            self._tokens[self._place : self._place + 1] = [
                (token[0], start),
                (token[1:], start + 1),
            ]
        return self._atom()


def _raised(base: Fraction | float, exponent: Fraction | float) -> Fraction | float:
    """A power: exact where the result is a fraction of bounded size."""
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        size = max(base.numerator.bit_length(), base.denominator.bit_length())
        if size * abs(exponent.numerator) > _BITS:
            raise ValueError("too large")
        if exponent.denominator == 1:
            return base**exponent.numerator
        if (exact := _exact_root(base**exponent.numerator, exponent.denominator)) is not None:
            return exact
    raised = float(base) ** float(exponent)
    if isinstance(raised, complex):
        raise ValueError("a root of a negative number")
    return float(raised)


def _exact_root(base: Fraction, degree: int) -> Fraction | None:
    if base < 0 or degree > 64:
        return None
    parts = []
    for part in (base.numerator, base.denominator):
        root = math.isqrt(part) if degree == 2 else round(part ** (1 / degree))
        if root**degree != part:
            return None
        parts.append(root)
    return Fraction(parts[0], parts[1])
