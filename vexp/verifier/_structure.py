"""Answers made of several parts: lists, sets, tuples, intervals, inequalities, unions."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from vexp.verifier._text import plain_math, without_thousands

Equal = Callable[[str, str], bool]
Shape = Literal["list", "set", "tuple", "interval", "union"]

MOST_PARTS = 40
_OPEN, _CLOSE = "([{", ")]}"
_AND = re.compile(r",?\s+(?:and|or|\\vee|\\lor|∨)\s+|\s*[;；]\s*", re.IGNORECASE)
_MEMBER = re.compile(r"^\s*([a-zA-Z])\s*(?:\\in(?![a-z])|∈)\s*")
_BUILDER = re.compile(r"\\?\{\s*([a-zA-Z])\s*(?:\||:|\\mid)\s*(.+?)\\?\}")
_PLUS_MINUS = re.compile(r"\s*(?:±|\\pm(?![a-z]))\s*")
_RELATION = re.compile(r"<=|>=|<|>")
_ELLIPSIS = re.compile(r"\.\.\.|\\[lcd]?dots\w?")
_INFINITE = {"∞": "inf", "+∞": "inf", "-∞": "-inf"}


@dataclass(frozen=True)
class Structure:
    """`parts` in their spelling. An interval has two, and `ends` such as `[)`; its variable may be
    known. `shape` list is without brackets."""

    shape: Shape
    parts: tuple[str, ...]
    ends: str = ""
    variable: str = ""


def read_structure(text: str) -> Structure | None:
    """The structure that an answer is; None if it is a single thing."""
    text = re.sub(r"(?<![.\s])\s*\.$", "", without_thousands(plain_math(text)))
    if builder := _BUILDER.fullmatch(text):
        text = builder[2]
    member = _MEMBER.match(text)
    variable, text = (member[1], text[member.end() :]) if member else ("", text)
    if interval := _inequality(text):
        return interval
    if len(signs := _PLUS_MINUS.split(text)) == 2:  # x = ±2
        return Structure(
            "list", (f"{signs[0]}+{signs[1]}".strip(" +"), "-".join(signs)), "", variable
        )
    unions = [part.strip() for part in re.split(r"∪|(?<=[)\]])\s*U\s*(?=[(\[])", text)]
    if len(unions) > 1:
        return Structure("union", tuple(unions), "", variable)
    text = text.replace("\\{", "{").replace("\\}", "}").strip()
    if not _balanced(text):
        return None
    inner, ends = _bracketed(text)
    parts = _split(inner)
    if parts is None:
        return None
    if ends == "{}":
        return Structure("set", parts)
    if ends and len(parts) == 2:
        return Structure("interval", parts, ends, variable)
    if len(parts) < 2:
        return None
    if not ends and all(map(_inequality, parts)):  # x < 1 or x > 2
        return Structure("union", parts)
    return Structure("tuple" if ends else "list", parts)


def same_structure(answer: Structure, gold: Structure, equal: Equal) -> bool:
    """Equality of two structures whose parts are compared by `equal`.

    Lists and sets are compared in any order, except where one has an ellipsis; a list without
    brackets equals a set. `(a, b)` is a pair and an open interval alike.
    """
    if answer.shape == gold.shape == "set":
        return _within(answer, gold, equal) and _within(gold, answer, lambda a, b: equal(b, a))
    if len(answer.parts) != len(gold.parts):
        return False
    if answer.variable and gold.variable and answer.variable != gold.variable:
        return False
    loose = {"list", "set", "union"}
    if answer.shape not in loose or gold.shape not in loose:
        if answer.shape != gold.shape or answer.ends != gold.ends:
            return False
        return all(equal(a, b) for a, b in zip(answer.parts, gold.parts, strict=True))
    if "union" in (answer.shape, gold.shape) and answer.shape != gold.shape:
        return False
    if any(_ELLIPSIS.fullmatch(part) for part in (*answer.parts, *gold.parts)):
        return all(equal(a, b) for a, b in zip(answer.parts, gold.parts, strict=True))
    left = list(gold.parts)
    for part in answer.parts:
        match = next((place for place, other in enumerate(left) if equal(part, other)), None)
        if match is None:
            return False
        del left[match]
    return True


def _within(some: Structure, others: Structure, equal: Equal) -> bool:
    return all(any(equal(part, other) for other in others.parts) for part in some.parts)


def _inequality(text: str) -> Structure | None:
    """`a < x <= b`, `x > a`, `a >= x` as intervals of the variable."""
    relations = _RELATION.findall(text)
    sides = [side.strip() for side in _RELATION.split(text)]
    if len(relations) == 1:
        variables = [bool(re.fullmatch(r"[a-zA-Z]", side)) for side in sides]
        if variables not in ([True, False], [False, True]):
            return None
        low = (relations[0][0] == ">") == variables[0]  # the number is below the variable
        variable, bound = sides if variables[0] else sides[::-1]
        end = "=" in relations[0]
        if low:
            return Structure("interval", (bound, "∞"), ("[" if end else "(") + ")", variable)
        return Structure("interval", ("-∞", bound), "(" + ("]" if end else ")"), variable)
    if len(relations) != 2 or relations[0][0] != relations[1][0]:
        return None
    low_side, variable, high_side = sides
    if not re.fullmatch(r"[a-zA-Z]", variable):
        return None
    first, second = relations
    if first[0] == ">":
        low_side, high_side, first, second = high_side, low_side, second, first
    ends = ("[" if "=" in first else "(") + ("]" if "=" in second else ")")
    return Structure("interval", (low_side, high_side), ends, variable)


def infinite(part: str) -> str | None:
    """ "inf" or "-inf" for a part that is infinity; None for others."""
    return _INFINITE.get(part.replace(" ", ""))


def _balanced(text: str) -> bool:
    return sum(map(text.count, _OPEN)) == sum(map(text.count, _CLOSE))


def _bracketed(text: str) -> tuple[str, str]:
    """The inside and the two brackets of a text that is one bracket; half-open ones match too."""
    if len(text) < 2 or text[0] not in _OPEN + "]" or text[-1] not in _CLOSE + "[":
        return text, ""
    depth = 0
    for place, sign in enumerate(text[1:-1]):
        depth += (sign in _OPEN) - (sign in _CLOSE)
        if depth < 0:
            return text, ""
        if place > 10_000:
            return text, ""
    ends = text[0] + text[-1]
    if ends[0] == "]" or ends[1] == "[":  # ]a, b[
        ends = {"]": "(", "[": "["}.get(ends[0], ends[0]) + {"[": ")", "]": "]"}.get(
            ends[1], ends[1]
        )
    return (text[1:-1], ends) if depth == 0 else (text, "")


def _split(text: str) -> tuple[str, ...] | None:
    """Parts between the commas outside brackets; None if there are too many or one is empty."""
    text = _AND.sub(",", text)
    parts, depth, start = [], 0, 0
    for place, sign in enumerate(text):
        depth += (sign in _OPEN) - (sign in _CLOSE)
        if sign == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    parts = [part.strip() for part in (*parts, text[start:])]
    if len(parts) > MOST_PARTS or not all(parts):
        return None
    return tuple(parts)
