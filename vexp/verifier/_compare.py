"""Equality of answers as they are spelled."""

from __future__ import annotations

from vexp.verifier._quantity import (
    Quantity,
    TimeOfDay,
    is_share,
    read_value,
    same_noun,
    same_number,
    same_value,
)
from vexp.verifier._text import LONGEST, normalized
from vexp.verifier._unit import PERCENT


def same_text(answer: str, gold: str, *, fold: bool = True) -> bool:
    """Equality of spelling.

    Case (with `fold`), spaces, a final full stop, LaTeX and Markdown, separators of thousands and
    zeros behind the decimal point do not matter. A unit beside a number may be left out; two have
    to be the same one.
    """
    if max(len(answer), len(gold)) > LONGEST:
        return answer.strip() == gold.strip()
    mine, wanted = read_value(answer), read_value(gold)
    if isinstance(mine, TimeOfDay) and isinstance(wanted, TimeOfDay):
        return same_value(mine, wanted, 0.0)
    if isinstance(mine, Quantity) and isinstance(wanted, Quantity):
        if mine.number.literal and wanted.number.literal:
            return _same_spelling(mine, wanted)
        fold = False  # MW are not mW
    return normalized(answer, fold=fold) == normalized(gold, fold=fold)


def _same_spelling(answer: Quantity, gold: Quantity) -> bool:
    """Equality of two numbers in plain digits with their units, without conversion."""
    if answer.name and gold.name and answer.name != gold.name:
        return False
    if PERCENT in (answer.unit, gold.unit) and (is_share(answer) or is_share(gold)):
        return False
    units = (
        not answer.unit
        or not gold.unit
        or any(
            mine == other or same_noun(mine, other) for mine in answer.unit for other in gold.unit
        )
    )
    return units and same_number(answer.number, gold.number, 0.0)
