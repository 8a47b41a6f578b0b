"""Units of answers: physical ones by the library pint, currency, percent and counted nouns.

The library is imported, and its registry built, when a text is first met that may be a unit; until
then numbers are read without it.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from typing import Any

CURRENCIES = {
    "$": "$", "us$": "$", "usd": "$", "dollar": "$", "buck": "$", "us dollar": "$",
    "u.s. dollar": "$", "a$": "A$", "aud": "A$", "c$": "C$", "cad": "C$", "€": "€", "eur": "€",
    "euro": "€", "£": "£", "gbp": "£", "pound sterling": "£", "¥": "¥", "jpy": "¥", "yen": "¥",
    "cny": "CN¥", "rmb": "CN¥", "yuan": "CN¥", "renminbi": "CN¥", "₹": "₹", "inr": "₹",
    "rupee": "₹", "₩": "₩", "krw": "₩", "won": "₩", "chf": "CHF", "franc": "CHF", "₽": "₽",
    "rub": "₽", "rouble": "₽", "ruble": "₽", "₺": "₺", "₫": "₫", "฿": "฿",
}  # fmt: skip
_CENTS = {"cent": ("$", "€"), "¢": ("$", "€"), "penny": ("$", "£"), "pence": ("£",)}
_PERCENT = {"%", "percent", "per cent", "pct", "percentage"}
# Symbols that take a prefix, by pint's names: "cat" is no centi-technical-atmosphere.
_PREFIXED = {
    "meter", "gram", "second", "liter", "newton", "joule", "watt", "volt", "ampere", "pascal",
    "hertz", "mole", "kelvin", "candela", "ohm", "farad", "henry", "tesla", "coulomb", "bit",
    "byte", "electron_volt", "calorie", "bar", "weber", "siemens", "becquerel", "gray", "sievert",
    "lumen", "lux", "radian", "parsec", "watt_hour", "metric_ton",
}  # fmt: skip
SINGLE = set("mgshNJWVAKLltTHCFΩ")  # units of one letter; other letters are variables
_PLURALS = {"hrs", "secs", "mins", "lbs", "kgs", "kms", "cms", "mms", "yrs", "mls", "amps", "gms"}
# Readings of spellings that pint has not, or has for something else.
_ALIASES = {
    "C": ("degC", "coulomb"), "F": ("degF", "farad"), "celsius": ("degC",),
    "centigrade": ("degC",), "fahrenheit": ("degF",), "°C": ("degC",), "°F": ("degF",),
    "°K": ("kelvin",), "°": ("degree",), "deg": ("degree",), "pound": ("pound", "£"),
    "pounds": ("pound", "£"), "lb": ("pound",), "oz": ("ounce",), "gm": ("gram",),
    "sec": ("second",), "wk": ("week",), "mo": ("month",), "yr": ("year",), "mi": ("mile",),
    "nmi": ("nautical_mile",), "mph": ("mile/hour",), "kmh": ("km/hour",), "kmph": ("km/hour",),
    "kph": ("km/hour",), "rpm": ("revolutions_per_minute",), "rps": ("revolutions/second",),
    "px": ("pixel",), "mpg": ("mile/gallon",), "amp": ("ampere",), "Ω": ("ohm",), "ℓ": ("liter",),
    "cc": ("cm**3",), "Å": ("angstrom",),
}  # fmt: skip
_ALIASES |= {  # as plain text has them: cm2, m3
    f"{unit}{power}": (f"{unit}**{power}",)
    for unit in ("mm", "cm", "dm", "m", "km")
    for power in (2, 3)
}
_NOT_UNITS = {
    "about", "always", "am", "an", "and", "ans", "answer", "answers", "are", "as", "at", "be",
    "because", "but", "by", "correct", "does", "down", "either", "else", "equals", "for", "from",
    "guess", "has", "have", "hence", "her", "his", "if", "is", "its", "less", "maybe", "minus",
    "more", "nd", "no", "nor", "not", "of", "off", "on", "or", "perhaps", "plus", "pm", "rd",
    "right", "so", "sometimes", "st", "th", "than", "that", "the", "then", "these", "this",
    "those", "thus", "times", "to", "up", "versus", "vs", "was", "were", "with", "wrong", "yes",
}  # fmt: skip
_IRREGULAR = {
    "people": "person", "persons": "person", "men": "man", "women": "woman", "feet": "foot",
    "children": "child", "kids": "kid", "mice": "mouse", "teeth": "tooth", "geese": "goose",
    "oxen": "ox", "leaves": "leaf", "halves": "half", "knives": "knife", "wolves": "wolf",
    "shelves": "shelf", "loaves": "loaf", "dice": "die", "fish": "fish", "sheep": "sheep",
    "deer": "deer", "aircraft": "aircraft", "cattle": "cattle",
}  # fmt: skip
_AFTER = re.compile(
    r"\s+(?:in\s+)?(?:long|tall|wide|high|deep|old|thick|away|apart|left|total|each|altogether|remaining)$"
)
_DIMENSION = {"square": 2, "sq": 2, "sq.": 2, "cubic": 3, "cu": 3, "cu.": 3}
_POWER_WORD = {"squared": "^2", "cubed": "^3"}
_PART = re.compile(  # a sign, a name, its power
    r"\s*(?:([*/])\s*)?([^\W\d_]+\.?|°[CFK]?|[*/()]|1(?=/))"
    r"(?:\s*\^\s*(?:\{?(-?\d)\}?|\((-?\d)\)))?"
)


@dataclass(frozen=True)
class Unit:
    """`value * factor + offset` is the value in the unit `root`; units of equal root convert."""

    root: str
    factor: float = 1.0
    offset: float = 0.0


Units = tuple[Unit, ...]  # the readings of one spelling: "pounds" are money or mass

PERCENT = (Unit("%"),)
DEGREE = Unit("radian", math.pi / 180)


@functools.lru_cache(maxsize=4096)
def read_unit(text: str) -> Units | None:
    """The unit that a text is; () for an empty text, None if it is none."""
    text = re.sub(r"(?<=[^\W\d])\.$", "", " ".join(text.split()).strip(" ,;"))
    if not text:
        return ()
    if len(text) > 60:
        return None
    if text.startswith("(") and text.endswith(")") and text.count("(") == 1:
        text = text[1:-1].strip()
    if known := _by_name(text):
        return known
    text = re.split(r"\s+of\s+", text)[0]
    shorter = _AFTER.sub("", text)
    return _by_name(shorter) or _physical(shorter) or _noun(shorter)


def read_currency(text: str) -> Units | None:
    """The currency that a sign, code or name stands for."""
    sign = CURRENCIES.get(_singular(text.casefold()))
    return (Unit(f"money {sign}"),) if sign else None


def _by_name(text: str) -> Units | None:
    folded = text.casefold()
    if folded in _PERCENT:
        return PERCENT
    if cents := _CENTS.get(_singular(folded)):
        return tuple(Unit(f"money {sign}", 0.01) for sign in cents)
    return read_currency(text)


def _singular(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes", "oes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _noun(text: str) -> Units | None:
    """Counted things: words of which the last is a plural, or one noun."""
    text, _, power = text.replace("**", "^").partition("^")
    words = text.casefold().split()
    if (
        not words
        or len(words) > 4
        or not all(re.fullmatch(r"[^\W\d_]+(?:-[^\W\d_]+)*", w) for w in words)
    ):
        return None
    if any(word in _NOT_UNITS or len(word) < 2 for word in words):
        return None
    last = words[-1]
    plural = len(last) > 3 and last.endswith("s") and not last.endswith(("ss", "us", "is"))
    if not (plural or last in _IRREGULAR or last == "unit"):
        return None
    if power:
        words = [{"2": "square", "3": "cubic"}.get(power.strip("{} "), power), *words]
    words = ["square" if w == "sq" else w for w in words]
    return (Unit(f"noun {' '.join([*words[:-1], _singular(last)])}"),)


def _physical(text: str) -> Units | None:
    """The readings of a physical unit, by pint."""
    if text in _ALIASES or _IS_TEMPERATURE.fullmatch(text):
        names = _ALIASES.get(text) or (f"deg{text.split()[-1][0].upper()}",)
        return tuple(_of_alias(name) for name in names)
    expression = _expression(text)
    if expression is None:
        return None
    unit = _root_of(expression)
    return (unit,) if unit else None


_IS_TEMPERATURE = re.compile(r"(?:degrees?|deg\.?|°)\s*(?:celsius|centigrade|fahrenheit|C|F)", re.I)


def _of_alias(name: str) -> Unit:
    unit = Unit(f"money {name}") if name in CURRENCIES else _root_of(name)
    assert unit is not None, name
    return unit


def _expression(text: str) -> str | None:
    """The unit in the grammar of pint, every name in it checked; None if one is no unit."""
    for word, power in _POWER_WORD.items():
        text = re.sub(rf"\s+{word}\b", power, text)
    text = re.sub(r"\s+(?:per|an?)\s+|^per\s+", "/", text) if text != "per" else ""
    text = re.sub(r"[·⋅×]|\\cdot|\\times|(?<=[^\W\d])-(?=[^\W\d])", "*", text.replace("**", "^"))
    if " " in text and (joined := _names(text.casefold().replace(" ", "_"))):
        return joined  # nautical miles, fluid ounces
    expression = "1" if text.startswith("/") else ""
    place = dimension = 0
    while place < len(text):
        part = _PART.match(text, place)
        name = _name_in(part[2]) if part else None
        if part is None or name is None:
            return None
        sign, place = part[1] or "", part.end()
        if not sign and expression[-1:] not in ("", "*", "/", "(") and name not in ")*/":
            sign = "*"
        expression += sign
        if part[2] in _DIMENSION:
            dimension = _DIMENSION[part[2]]
            continue
        raised = part[3] or part[4] or dimension
        expression += f"{name}**{raised}" if raised else name
        dimension = 0
    return expression if expression and not dimension else None


def _name_in(word: str) -> str | None:
    """A name or sign of an expression as pint has it; None if it is no unit."""
    return word if word in ("*", "/", "(", ")", "1", *_DIMENSION) else _names(word.rstrip("."))


@functools.lru_cache(maxsize=4096)
def _names(word: str) -> str | None:
    """The name by which pint knows a word, if it is a unit as people write them."""
    if word in _ALIASES:
        return _ALIASES[word][0]
    if word not in SINGLE if len(word) == 1 else word.casefold() in _NOT_UNITS:
        return None
    if word in _PLURALS:
        return _names(word[:-1])
    if not re.fullmatch(r"[^\W\d]+", word):
        return None
    for spelling in dict.fromkeys(
        (word, word.replace("metre", "meter").replace("litre", "liter"), word.casefold())
    ):
        if _is_written(spelling.replace("μ", "µ")):
            return spelling.replace("μ", "µ")
    return None


def _is_written(word: str) -> bool:
    """Presence among pint's names: whole, with a whole prefix, or a symbol with a prefix of SI."""
    for prefix, unit, suffix in _registry().parse_unit_name(word):
        long = len(unit) > 3 and unit.split("_")[0] in word
        if suffix and not long and _singular(word) not in (unit, *_IRREGULAR.values()):
            continue
        if not prefix or (long and word.startswith(prefix)) or (unit in _PREFIXED and not suffix):
            return True
    return False


@functools.lru_cache(maxsize=4096)
def _root_of(expression: str) -> Unit | None:
    registry = _registry()
    try:
        unit = registry.parse_units(expression)
        one = registry.Quantity(1.0, unit).to_root_units()
        zero = 0.0 if unit.dimensionless else registry.Quantity(0.0, unit).to_root_units().magnitude
    except Exception:  # noqa: BLE001  (pint raises whatever its parser meets)
        return None
    root = str(one.units)
    if root == "dimensionless":
        return None
    return Unit(root, one.magnitude - zero, zero)


@functools.cache
def _registry() -> Any:
    import pint

    return pint.UnitRegistry(autoconvert_offset_to_baseunit=True)
