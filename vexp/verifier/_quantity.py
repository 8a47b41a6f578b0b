"""Quantities of answers: a number with its unit, a time of day, a ratio."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass, replace
from fractions import Fraction

from vexp.verifier._arithmetic import LONGEST, Number, read_number
from vexp.verifier._text import plain_math, without_thousands
from vexp.verifier._unit import (
    CURRENCIES,
    DEGREE,
    PERCENT,
    SINGLE,
    Unit,
    Units,
    read_currency,
    read_unit,
)

_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_SCALES |= {"trillion": 10**12, "quadrillion": 10**15, "lakh": 10**5, "crore": 10**7, "dozen": 12}
_LETTERS = {"k": 10**3, "K": 10**3, "M": 10**6, "mn": 10**6, "B": 10**9, "bn": 10**9}
_MONEY_LETTERS = _LETTERS | {"m": 10**6, "mm": 10**6, "b": 10**9, "T": 10**12}
_MONEY_LETTERS |= {"t": 10**12, "tn": 10**12}
_SCALE = re.compile(rf"[\s-]*({'|'.join(_SCALES)})s?(?![a-z])\s*", re.IGNORECASE)
_LETTER = re.compile(r"([kKmMbBtT]|mm|mn|bn|tn)(?![^\W\d_]|[/^·*])\s*")
_SIGN = "|".join(re.escape(sign) for sign in sorted(CURRENCIES, key=len, reverse=True))
_CURRENCY = re.compile(
    rf"([-+]?)\s*(?:US\s?(?=\$))?({_SIGN}|Rs\.?)\s*([-+]?\s*[\d.\\(].*)", re.IGNORECASE | re.DOTALL
)
_ABOUT = re.compile(
    r"^(?:≈|about|approximately|approx\.?|around|roughly|only|exactly|just)\s*(?=[-+$\d\\.(])", re.I
)
_UNIT_IN_BRACKETS = re.compile(r"(?<=\d)\s*\(\s*([^\W\d_][^()]*|[°%][CF]?)\s*\)$")
_UNIT_FRACTION = re.compile(r"(?<=[\d }])\\frac\s*\{([^\W\d_][^{}]*)\}\s*\{([^\W\d_][^{}]*)\}$")
_BRACKETS = re.compile(r"\([^()]*\)")
_SIDES = re.compile(r"(?<![<>!:=\\])\s*(?:=|≈)\s*(?![=<>])")
_NAME = re.compile(
    r"(?:\\angle|∠|\\triangle|\\overline|\\[a-z]{2,8}|[^\W\d]|[()',{} ])[\w\s'(),{}\\^°∠-]{0,40}",
    re.DOTALL,
)
_TIME = re.compile(
    r"(?:(\d{1,2})\s*[:.h]\s*([0-5]\d)(?:\s*:\s*([0-5]\d))?|(\d{1,2}))\s*(?:(a|p)\.?\s*m\.?|(o'clock))?",
    re.I,
)
_MIDDLE = re.compile(r"(?:12\s*)?(noon|midnight)", re.IGNORECASE)  # of the day
_RATIO = re.compile(r"([\d.]+)((?:\s*:\s*[\d.]+)+)")
_WITHOUT_DIGITS = re.compile(r"π|\\?pi|√|^(?:noon|midnight)$", re.IGNORECASE)
_FINAL = re.compile(r"(?<![.\s])\s*[.,;]$")
_NOISE = 1e-12  # of a float that arithmetic with roots or conversion has made


@dataclass(frozen=True)
class Quantity:
    """A number and the readings of its unit; () for none. `name` as in `x = 5`.

    `lettered` if one letter stands right behind the number, in algebra a variable: `3k`, `2m`.
    """

    number: Number
    unit: Units = ()
    name: str = ""
    lettered: bool = False

    @property
    def value(self) -> float:
        return float(self.number.value)

    def equals(self, gold: Quantity, tolerance: float) -> bool:
        """Equality with the gold quantity.

        A unit may be left out on one side; two units have to be equal or convertible. "50%" equals
        "0.5", and "50" as well, but "0.5%" is not "0.5".
        """
        if self.name and gold.name and self.name != gold.name:
            return False
        if PERCENT in (self.unit, gold.unit) and self.unit != gold.unit:
            share, plain = (self, gold) if self.unit == PERCENT else (gold, self)
            if plain.unit:
                return False
            hundredth = replace(share, number=share.number.times(Fraction(1, 100)), unit=())
            pair = (hundredth, plain) if share is self else (plain, hundredth)
            if same_number(pair[0].number, pair[1].number, tolerance):
                return True
            if is_share(plain):
                return False
        elif self.unit and gold.unit:
            return any(
                _same_in(self.number, mine, gold.number, other, tolerance)
                for mine in self.unit
                for other in gold.unit
            )
        return same_number(self.number, gold.number, tolerance)


def is_share(quantity: Quantity) -> bool:
    """Size of a bare number that is a part of one, so that no percent sign was left out."""
    return not quantity.unit and 0.0 < abs(quantity.value) < 1.0


@dataclass(frozen=True)
class TimeOfDay:
    """A time of day in seconds; `half` is "a", "p" or empty where it is not given."""

    hour: int
    seconds: int
    half: str = ""

    def equals(self, gold: TimeOfDay, tolerance: float) -> bool:
        """Equality with the gold time; without am and pm, that of a clock with 24 hours.

        Half of the day may be added to a gold time that leaves it open.
        """
        if self.half and not gold.half and 1 <= gold.hour <= 12:
            return (self.hour % 12, self.seconds) == (gold.hour % 12, gold.seconds)
        return self._of_day() == gold._of_day()

    def _of_day(self) -> tuple[int, int]:
        hour = self.hour % 12 + 12 * (self.half == "p") if self.half else self.hour
        return hour, self.seconds


@dataclass(frozen=True)
class Ratio:
    """Numbers in proportion, such as 3:4."""

    parts: tuple[Fraction, ...]

    def equals(self, gold: Ratio, tolerance: float) -> bool:
        """Equality of proportions."""
        if len(self.parts) != len(gold.parts) or not (self.parts[0] and gold.parts[0]):
            return self.parts == gold.parts
        factor = gold.parts[0] / self.parts[0]
        return all(a * factor == b for a, b in zip(self.parts, gold.parts, strict=True))


Value = Quantity | TimeOfDay | Ratio


def same_value(answer: Value, gold: Value, tolerance: float) -> bool:
    """Equality of two values of one kind; values of different kinds differ."""
    if isinstance(answer, Quantity):
        return isinstance(gold, Quantity) and answer.equals(gold, tolerance)
    if isinstance(answer, TimeOfDay):
        return isinstance(gold, TimeOfDay) and answer.equals(gold, tolerance)
    return isinstance(gold, Ratio) and answer.equals(gold, tolerance)


def same_number(answer: Number, gold: Number, tolerance: float) -> bool:
    """Equality of numbers: exactly, or up to a relative tolerance where one is a decimal.

    A whole number has to be equal always. A gold number with decimals also equals what it is the
    rounding of, if that has no end: 0.33 and 1/3, 3.14 and π.
    """
    a, b = answer.value, gold.value
    exact = answer.is_integer or gold.is_integer or not (answer.rounded or gold.rounded)
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        if a == b:
            return True
        allowed = Fraction(0 if exact else tolerance)
        if a and b and abs(a - b) <= allowed * max(abs(a), abs(b)):
            return True
    elif math.isclose(
        a, b, rel_tol=_NOISE if exact else tolerance, abs_tol=0.0 if a and b else _NOISE
    ):
        return True
    return answer.endless and gold.rounded and _is_rounding(a, b)


def _is_rounding(exact: Fraction | float, rounded: Fraction | float) -> bool:
    """Nearness of a decimal with at least two places to what it stands for."""
    if not isinstance(rounded, Fraction):
        return False
    places = next((n for n in range(2, 16) if (rounded * 10**n).denominator == 1), None)
    return places is not None and round(Fraction(exact) * 10**places) == rounded * 10**places


def _same_in(a: Number, mine: Unit, b: Number, other: Unit, tolerance: float) -> bool:
    if mine == other:
        return same_number(a, b, tolerance)
    if mine.root != other.root:
        alike = same_noun(mine, other) or _bare_degrees(mine, other) or _bare_degrees(other, mine)
        return alike and same_number(a, b, tolerance)
    allowed = max(_NOISE, tolerance if a.rounded or b.rounded else 0.0)
    left = float(a.value) * mine.factor + mine.offset
    right = float(b.value) * other.factor + other.offset
    return math.isclose(left, right, rel_tol=allowed, abs_tol=_NOISE if not (left and right) else 0)


def _bare_degrees(mine: Unit, other: Unit) -> bool:
    """Degrees beside degrees of a named scale: `20 degrees`, `20 °C`."""
    return mine == DEGREE and other.root == "kelvin" and bool(other.offset)


def same_noun(mine: Unit, other: Unit) -> bool:
    """Equality of counted nouns, of which one may have more adjectives: `red apples`, `apples`."""
    if not (mine.root.startswith("noun ") and other.root.startswith("noun ")):
        return False
    a, b = mine.root.split()[1:], other.root.split()[1:]
    dimensions = {"square", "cubic"}
    if a[-1] != b[-1] or set(a) & dimensions != set(b) & dimensions:
        return False
    return set(a) <= set(b) or set(b) <= set(a)


@functools.lru_cache(maxsize=4096)
def read_value(text: str) -> Value | None:
    """The quantity, time of day or ratio that an answer is; None if it is anything else."""
    text = _FINAL.sub("", plain_math(text).strip()) if len(text) <= LONGEST else ""
    if not any(map(str.isdigit, text)) and not _WITHOUT_DIGITS.search(text):
        return None
    return _read_time(text) or _read_ratio(text) or _read_quantity(text)


def read_quantity(text: str) -> Quantity | None:
    """The number with its unit that an answer consists of; None if it is anything else."""
    value = read_value(text)
    return value if isinstance(value, Quantity) else None


def _read_time(text: str) -> TimeOfDay | None:
    if middle := _MIDDLE.fullmatch(text):
        return TimeOfDay(12 if middle[1].casefold() == "noon" else 0, 0)
    match = _TIME.fullmatch(text)
    if not match:
        return None
    colon = ":" in text
    if not (match[5] or match[6] or (colon and match[1])):
        return None
    hour = int(match[1] or match[4])
    half = (match[5] or "").casefold()
    if hour > (12 if half or match[6] else 24) or (half and not hour):
        return None
    return TimeOfDay(hour, 60 * int(match[2] or 0) + int(match[3] or 0), half)


def _read_ratio(text: str) -> Ratio | None:
    match = _RATIO.fullmatch(text)
    try:
        return Ratio(tuple(Fraction(part.strip()) for part in text.split(":"))) if match else None
    except ValueError:
        return None


def _read_quantity(text: str) -> Quantity | None:
    """A chain of equal sides, of which the first may be a name: `x = 1/2 = 0.5`."""
    sides = _SIDES.split(_ABOUT.sub("", text, count=1))
    name = ""
    if len(sides) > 1 and _NAME.fullmatch(sides[0].strip()) and _read_side(sides[0]) is None:
        name = re.sub(r"[\\\s{}]|\\text", "", sides.pop(0))
        name = name if len(name) == 1 else ""
    values = [_read_side(side) for side in sides]
    first = values[0] if values else None
    if first is None or len(values) > 4:
        return None
    for value in values[1:]:
        if value is None or not value.equals(first, 1e-2):
            return None
    return replace(first, name=name)


def _read_side(text: str) -> Quantity | None:
    text = _ABOUT.sub("", text.strip(), count=1)
    text = _UNIT_FRACTION.sub(r" \1/(\2)", _UNIT_IN_BRACKETS.sub(r" \1", text))
    text = text[1:-1] if _BRACKETS.fullmatch(text) else text
    money: Units | None = ()
    if match := _CURRENCY.fullmatch(text):
        money = read_currency("inr" if match[2][:2].casefold() == "rs" else match[2])
        text = (
            match[1] + match[3].replace(" ", "", 1) if match[3][0] in "+-" else match[1] + match[3]
        )
    read = _read_measured(without_thousands(text), money or ())
    if read is None or read[1]:
        return None
    return read[0]


def _read_measured(text: str, money: Units) -> tuple[Quantity, str] | None:
    """A number, its scale and its unit, or several that add up: `5 ft 3 in`."""
    read = read_number(text)
    if read is None:
        return None
    number, rest = read
    lettered = rest in SINGLE
    if _SCALE.match(rest):
        while scale := _SCALE.match(rest):
            number, rest = number.times(_SCALES[scale[1].casefold()]), rest[scale.end() :]
        rest = re.sub(r"^of\s+", "", rest)
    elif (scale := _LETTER.match(rest)) and (
        factor := (_MONEY_LETTERS if money else _LETTERS).get(scale[1])
    ):
        number, rest, lettered = number.times(factor), rest[scale.end() :], not money
    unit = read_unit(rest)
    if unit is None:
        return _read_sum(number, rest)
    if money and unit and not set(money) & set(unit):
        return None
    return Quantity(number, money or unit, lettered=lettered), ""


_FIRST_UNIT = re.compile(r"\s*([^\W\d_]+\.?|[°'\"′])[\s,]*(?:and\s+)?(?=\d)")


def _read_sum(number: Number, rest: str) -> tuple[Quantity, str] | None:
    """The sum of parts in smaller and smaller units."""
    match = _FIRST_UNIT.match(rest)
    unit = read_unit({"'": "ft"}.get(match[1], match[1])) if match else None
    if not match or not unit or len(rest) > 60:
        return None
    more = re.sub(r"(?<=\d)\s*(?:\"|'')$", " in", rest[match.end() :])
    read = _read_measured(more, ())
    if read is None or not read[0].unit:
        return None
    small = read[0]
    mine, other = unit[0], small.unit[0]
    if mine.root != other.root or mine.factor <= other.factor or mine.offset or other.offset:
        return None
    share = Fraction(other.factor / mine.factor).limit_denominator(10**6)
    total = number.value + small.number.value * share
    return Quantity(Number(total, number.rounded or small.number.rounded), unit), ""
