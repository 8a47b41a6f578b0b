"""Bringing answers to one spelling before they are compared as text."""

from __future__ import annotations

import re
import unicodedata

_DELIMITERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))
_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mbox|operatorname)"
    r"\s*\{([^{}]*)\}"
)
_NOTHING = re.compile(r"\\[!,]|\\left(?![a-zA-Z])|\\right(?![a-zA-Z])")
_SPACING = re.compile(r"\\[;: ]|\\quad|~")
_DEGREES = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\degree")
_LOOSE_SPACE = re.compile(r"(?<!\w) | (?!\w)")  # beside anything but letters and digits
NUMBER = r"[-+]?[$€£]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|[-+]?[$€£]?\.\d+"

# Spellings of the units that an answer may carry or leave out, by their short form.
UNITS = {
    "%": ("%", "percent", "per cent"),
    "deg": ("°", "deg", "degree", "degrees"),
    "mm": ("mm", "millimeter", "millimeters", "millimetre", "millimetres"),
    "cm": ("cm", "centimeter", "centimeters", "centimetre", "centimetres"),
    "m": ("m", "meter", "meters", "metre", "metres"),
    "km": ("km", "kilometer", "kilometers", "kilometre", "kilometres"),
    "in": ("in", "inch", "inches"),
    "ft": ("ft", "foot", "feet"),
    "g": ("g", "gram", "grams"),
    "kg": ("kg", "kilogram", "kilograms"),
    "s": ("s", "sec", "second", "seconds"),
    "min": ("min", "minute", "minutes"),
    "h": ("h", "hr", "hour", "hours"),
    "$": ("dollar", "dollars", "usd"),
    "unit": ("unit", "units"),
}
UNIT_OF = {spelling: unit for unit, spellings in UNITS.items() for spelling in spellings}
_UNIT = (
    rf"({'|'.join(sorted(map(re.escape, UNIT_OF), key=len, reverse=True))})"
    r"(?:\s*\^\s*\{?([23])\}?)?"
)
_QUANTITY = re.compile(rf"({NUMBER})(?:\s*{_UNIT})?")


def plain_math(text: str) -> str:
    """LaTeX without delimiters, text wrappers, spacing and escapes; degree signs as `°`.

    Case and spaces stay as they are.
    """
    text = unicodedata.normalize("NFKC", text.replace("²", "^2").replace("³", "^3")).strip()
    for opening, closing in _DELIMITERS:
        long_enough = len(text) >= len(opening) + len(closing)
        if long_enough and text.startswith(opening) and text.endswith(closing):
            text = text[len(opening) : -len(closing)]
            break
    text = text.replace("{,}", ",").replace("\\%", "%").replace("\\$", "$").replace("−", "-")
    text = _DEGREES.sub("°", text)
    text = _SPACING.sub(" ", _NOTHING.sub("", text))
    for _ in range(3):  # wrappers may be nested, as in \text{\bf{a}}; not without end
        text = _WRAPPER.sub(r"\1", text)
    return text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").strip()


def normalized(text: str) -> str:
    """The spelling in which answers are compared as text: case, loose spaces, final stops gone."""
    text = " ".join(plain_math(text).casefold().split()).rstrip(" .")
    return _LOOSE_SPACE.sub("", text)


def same_text(answer: str, gold: str) -> bool:
    """Whether two answers are the same text.

    Case, spaces, a final full stop, LaTeX wrappers, thousands separators and currency signs do not
    matter. A unit or percent sign beside a number may be left out, but two units have to agree.
    """
    value, unit = _quantity(normalized(answer))
    gold_value, gold_unit = _quantity(normalized(gold))
    return value == gold_value and (unit == gold_unit or not unit or not gold_unit)


def _quantity(text: str) -> tuple[str, str]:
    """A number without separators and its unit; any other text as it is, without a unit."""
    match = _QUANTITY.fullmatch(text)
    if not match:
        return text, ""
    unit = UNIT_OF.get(match[2] or "", "")
    return re.sub(r"[+,$€£]", "", match[1]), unit + (match[3] or "")
