"""Looking at every row of a table once before training: what is wrong, by file and row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vexp.dataset._boxes import BadBoxes, read_boxes
from vexp.dataset._images import BadImage, header_size, source
from vexp.dataset._rows import Stamp, open_rows
from vexp.dataset._splits import SPLITS, Place, split_called
from vexp.errors import DataError, Problem

if TYPE_CHECKING:
    from vexp.dataset.table import Table

SHOWN = 20  # problems named; the rest is counted


class BadRow(ValueError):
    """A cell that cannot be used; the message says why, the caller knows where."""


def text(cell: Any, name: str) -> str:
    """A cell as text; numbers are written out.

    Raises:
        BadRow: if it is empty or neither text nor a number.
    """
    found = optional_text(cell, name)
    if not found:
        raise BadRow(f"the {name} is empty")
    return found


def optional_text(cell: Any, name: str) -> str:
    """A cell as text, empty where there is nothing (NaN is how pandas writes nothing).

    Raises:
        BadRow: if it is neither text nor a number.
    """
    if cell is None or cell != cell:
        return ""
    if isinstance(cell, bool) or not isinstance(cell, str | int | float):
        raise BadRow(f"the {name} is {_kind(cell)}, not text")
    return str(cell).strip()


def data_problems(table: Table, stamps: tuple[Stamp, ...]) -> Iterator[Problem]:
    """The first `SHOWN` problems of a table and, if there are more, how many."""
    count = 0
    for problem in _all(table, stamps):
        count += 1
        if count <= SHOWN:
            yield problem
    if count > SHOWN:
        yield Problem(
            f"… and {count - SHOWN} more problems; {count} in all",
            where=", ".join(str(stamp.path) for stamp in stamps),
            remedy="mend or remove these rows",
        )


def _all(table: Table, stamps: tuple[Stamp, ...]) -> Iterator[Problem]:
    for stamp in stamps:
        rows = open_rows(stamp)
        for number, reason in rows.broken().items():
            yield Problem(reason, where=rows.where(number))
    if table.split_column:
        yield from _unknown_splits(stamps[0], table.split_column)
    if not table.size("train"):
        yield Problem("no row belongs to the training split", where=str(stamps[0].path))
    first: dict[str, Place] = {}
    for split in SPLITS:
        for place in table.places(split):
            if place.number in place.rows.broken():
                continue
            if other := first.get(place.id):
                yield Problem(f"the id {place.id!r} was used before, by {other}", where=str(place))
            first.setdefault(place.id, place)
            for reason in _row_problems(table, place):
                yield Problem(reason, where=f"{place} (id {place.id!r})")


def _unknown_splits(stamp: Stamp, column: str) -> Iterator[Problem]:
    rows = open_rows(stamp)
    for number, word in enumerate(rows.column(column)):
        if split_called(word) is None and number not in rows.broken():
            yield Problem(
                f"{column!r} is {word!r}", where=rows.where(number), accepted=", ".join(SPLITS)
            )


def _row_problems(table: Table, place: Place) -> Iterator[str]:
    try:
        cells = table.fields_of(place)
    except DataError as error:
        yield error.problem.what
        return
    for name in ("question", "answer"):
        try:
            text(cells[name], name)
        except BadRow as error:
            yield str(error)
    for name in ("tag", "demonstration"):
        try:
            optional_text(cells[name], name)
        except BadRow as error:
            yield str(error)
    try:
        found = source(cells["image"], place.stamp.path.parent)
        size = None if found is None else header_size(found)
        read_boxes(cells["boxes"], table.box_format, size, table.bad_boxes)
    except (BadImage, BadBoxes) as error:
        yield str(error)


def _kind(cell: Any) -> str:
    names = {bool: "true or false", list: "a list", dict: "named values", bytes: "bytes"}
    return names.get(type(cell), f"a {type(cell).__name__}")
