"""Cells of a table as text: numbers as a person would write them, and nothing without bounds."""

from __future__ import annotations

import functools
from typing import Any

from vexp.dataset._rows import Stamp, open_rows

MOST_CHARACTERS = 1_000_000  # of a cell; no model's context holds as much
_LARGEST = 2.0**53  # up to which every integer is a float
_FLOAT32_DIGITS, _FLOAT64_DIGITS = 7, 15


class BadRow(ValueError):
    """A cell that cannot be used; the message says why, the caller knows where."""


def text(cell: Any, name: str) -> str:
    """A cell as text; numbers are written out.

    Raises:
        BadRow: if it is empty, too long, or neither text nor a number.
    """
    content = optional_text(cell, name)
    if not content:
        raise BadRow(f"the {name} is empty")
    return content


def optional_text(cell: Any, name: str) -> str:
    """A cell as text, empty where there is nothing (NaN is how pandas writes nothing).

    Raises:
        BadRow: if it is too long, or neither text nor a number.
    """
    if cell is None or cell != cell:
        return ""
    if isinstance(cell, bool) or not isinstance(cell, str | int | float):
        raise BadRow(f"the {name} is {_kind(cell)}, not text")
    if isinstance(cell, str) and len(cell) > MOST_CHARACTERS:
        raise BadRow(
            f"the {name} has {len(cell):,} characters; at most {MOST_CHARACTERS:,} are read"
        )
    return str(cell).strip()


def written(cell: Any, stamp: Stamp, column: str) -> Any:
    """A number of a column as it was meant; anything else as it is.

    A whole float is an integer where all numbers of its column are whole: that is what a column of
    integers becomes when a cell is empty. A float32 is written by the digits that it takes.
    """
    if not isinstance(cell, float) or cell != cell:
        return cell
    if integer(cell) and is_whole(stamp, column):
        return integer(cell)
    if open_rows(stamp).is_float32(column):
        return _as_float32(cell) or cell
    return narrowed(cell) or cell


def integer(number: float) -> str:
    """A whole number without its point; empty for any other, and for one with rounded digits."""
    return str(int(number)) if number.is_integer() and abs(number) < _LARGEST else ""


def narrowed(number: float) -> str:
    """A float32 that was widened on its way here, in its own digits; empty for any other number.

    A float64 is a float32 by chance once in 500 million times.
    """
    short = _as_float32(number)
    few = short and _digits(short) <= _FLOAT32_DIGITS and _digits(repr(number)) >= _FLOAT64_DIGITS
    return short if few else ""


@functools.lru_cache(maxsize=64)
def is_whole(stamp: Stamp, column: str) -> bool:
    """True where every number of a column is whole."""
    numbers = (cell for cell in open_rows(stamp).column(column) if isinstance(cell, float))
    return all(number.is_integer() for number in numbers if number == number)


def _as_float32(number: float) -> str:
    """The shortest text of the float32 that the number is; empty where it is none."""
    import numpy as np

    with np.errstate(over="ignore"):
        narrow = np.float32(number)
    return str(narrow) if float(narrow) == number else ""


def _digits(number: str) -> int:
    mantissa = number.partition("e")[0]
    return len(mantissa.replace(".", "").strip("-0"))


def _kind(cell: Any) -> str:
    names = {bool: "true or false", list: "a list", dict: "named values", bytes: "bytes"}
    return names.get(type(cell), f"a {type(cell).__name__}")
