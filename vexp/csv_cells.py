"""Cells of CSV files that no spreadsheet takes for a formula, and that can be read back."""

from __future__ import annotations

from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_QUOTE = "'"


def cell(value: Any) -> Any:
    """A value as it is written; text that would be a formula gets an apostrophe before it."""
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(value)
    return f"{_QUOTE}{value}" if isinstance(value, str) and _is_formula(value) else value


def plain(text: str) -> str:
    """The inverse of `cell`, for text."""
    return text[1:] if text.startswith(_QUOTE) and _is_formula(text[1:]) else text


def _is_formula(text: str) -> bool:
    """Whether a cell begins like a formula, perhaps behind apostrophes, and is no number."""
    if not text.lstrip(_QUOTE).lstrip(" \n").startswith(_FORMULA):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return not text.isascii()
