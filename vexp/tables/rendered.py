"""A table as it is shown: texts in lines and columns, before it becomes Markdown, LaTeX or HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

Rank = Literal["", "best", "second"]  # best is bold, second underlined


@dataclass(frozen=True)
class RenderedCell:
    """The text of one cell."""

    text: str
    rank: Rank = ""
    value: float | None = None  # what it is sorted by; None: no number


@dataclass(frozen=True)
class Heading:
    """The heading of one column; neighbours of one group stand under its name."""

    text: str
    group: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class RenderedLine:
    """One line of the table; lines of one group stand under its name."""

    cells: tuple[RenderedCell, ...]
    group: str = ""


@dataclass(frozen=True)
class Sheet:
    """A whole table as texts, and what CSV and JSON say of it."""

    name: str
    title: str
    headings: tuple[Heading, ...]
    lines: tuple[RenderedLine, ...]
    notes: tuple[str, ...]
    origin: str  # how it was made
    # Made when asked for: one for each cell with the same keys in all, and everything it knows.
    records: Callable[[], Sequence[Mapping[str, Any]]] = field(repr=False, compare=False)
    document: Callable[[], Mapping[str, Any]] = field(repr=False, compare=False)

    def sections(self) -> list[tuple[str, list[RenderedLine]]]:
        """The lines by group, in their order."""
        return [(group, list(lines)) for group, lines in groupby(self.lines, lambda x: x.group)]

    def column_groups(self) -> list[tuple[str, int]]:
        """Groups of neighbouring columns with their widths; empty if no column has a group."""
        if not any(heading.group for heading in self.headings):
            return []
        grouped = groupby(self.headings, lambda heading: heading.group)
        return [(group, len(list(members))) for group, members in grouped]


def ranks(values: Sequence[float | None], *, higher_is_better: bool = True) -> list[Rank]:
    """Best and second of a column's values; equal values share their rank, None has none.

    A column with a single value has no best one.
    """
    present = sorted({v for v in values if v is not None}, reverse=higher_is_better)
    if len(present) < 2:
        return [""] * len(values)
    return ["best" if v == present[0] else "second" if v == present[1] else "" for v in values]
