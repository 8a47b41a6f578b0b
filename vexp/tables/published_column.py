"""Published numbers beside ours: which one belongs to a cell, and how its protocol differs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vexp.errors import ConfigError, Problem, suggest
from vexp.sweeps.points import Point
from vexp.sweeps.schema import Row, Sweep, shown_path
from vexp.sweeps.table import Column
from vexp.tables.cells import Cell, Published, Results

if TYPE_CHECKING:
    from vexp.tables.reference import Reference, ReferenceRow


class Beside:
    """The published table that a sweep refers to.

    Raises:
        ConfigError: if there is none of that name, or a row that it has to have is not in it.
    """

    def __init__(self, name: str, sweep: Sweep) -> None:
        self.found: Reference | None = None
        if not name:
            return
        from vexp.tables import reference

        self.found = reference.load(name)
        known = [row.id for row in self.found.rows]
        missing = [
            Problem(
                f"{name} has no row {row.reference or row.name!r}",
                where=f"{shown_path(sweep.path)}:{row.line}, row {row.name!r}",
                accepted=suggest(row.reference or row.name, known, noun="rows"),
            )
            for row in sweep.rows
            if (row.external or row.reference) and (row.reference or row.name) not in known
        ]
        if missing:
            raise ConfigError(missing)

    def constant(self, row: Row, column: Column) -> Cell:
        """The cell of a row that is not run."""
        from vexp.tables.published import number

        printed = self._row(row)
        if self.found is None or printed is None or column.key not in printed.values:
            return Cell(text="")
        published = self._published(printed, column, row)
        if published is None:
            value = printed.values[column.key]
            return Cell(text="-" if value is None else number(value, self.found.unit))
        return Cell(published=published)

    def with_constant(self, cell: Cell, row: Row, column: Column) -> Cell:
        """The same cell with the published number, as it is printed."""
        printed = self._row(row)
        value = printed.values.get(column.key) if printed else None
        if not isinstance(value, float | int) or isinstance(value, bool):
            return cell
        return dataclasses.replace(cell, published=Published(float(value), repr(value)))

    def placed(
        self, cell: Cell, row: Row, column: Column, group: Sequence[Point], results: Results
    ) -> Cell:
        """The cell with the published number of the same row and column beside it."""
        printed = self._row(row)
        if self.found is None or printed is None or column.key not in printed.values:
            return cell
        published = self._published(printed, column, row)
        if published is None:
            return cell
        from vexp.tables.protocol import differences

        differs = differences(self.found, printed, column, group[0], results)
        return dataclasses.replace(cell, published=dataclasses.replace(published, differs=differs))

    def _row(self, row: Row) -> ReferenceRow | None:
        return self.found.row(row.reference or row.name) if self.found else None

    def _published(self, printed: ReferenceRow, column: Column, row: Row) -> Published | None:
        """A number on the column's scale; None for texts, and for numbers on another scale."""
        value = printed.values.get(column.key)
        if not isinstance(value, float | int) or isinstance(value, bool) or self.found is None:
            return None
        unit, scale = printed.unit or self.found.unit, row.scale or column.scale
        if unit == "percent" and scale == "percent":
            return Published(value / 100, repr(value))
        if unit != "percent" and scale == "none":
            return Published(float(value), repr(value))
        return None
