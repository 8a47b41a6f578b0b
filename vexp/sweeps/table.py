"""What a sweep file says of its table: columns, the rows' order, baseline and published numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from vexp.config.types import Count

Scale = Literal["none", "percent"]
Test = Literal["seeds", "sampled_runs"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column: a metric, a benchmark, an average of columns, a cost, or constant texts."""

    metric: str = ""  # as in results.json, e.g. accuracy/single
    evaluator: str = "heldout"  # the evaluator's name in the run's config
    benchmark: str = ""  # instead of a metric: results of this benchmark, e.g. imported ones
    average: tuple[str, ...] = ()  # instead of a metric: mean of these columns, per run
    cost: str = ""  # instead of a metric: mean seconds per step of this phase, e.g. total_s
    texts: dict[str, str] = field(default_factory=dict)  # instead of a metric: row -> text
    id: str = ""  # empty: the metric, benchmark or cost; names it in `average` and the reference
    label: str = ""  # heading; empty: the id
    group: str = ""  # neighbours of one group stand under its name
    scale: Scale = "none"  # percent: the metric is a share from 0 to 1
    digits: Count | None = None  # decimals; null: 1 for percent, else 3
    # Which mean is set in bold; null: the highest of a percentage, none of anything else.
    better: Literal["higher", "lower"] | None = None
    hidden: bool = False  # only there for averages

    @property
    def key(self) -> str:
        """What names the column within its table."""
        return self.id or self.metric or self.benchmark or self.cost or self.label

    @property
    def heading(self) -> str:
        label = self.label or self.key
        return f"{label} (%)" if self.scale == "percent" else label

    @property
    def decimals(self) -> int:
        return self.digits if self.digits is not None else 1 if self.scale == "percent" else 3

    @property
    def ranked(self) -> Literal["higher", "lower"] | None:
        """Which mean is the best; None where none is."""
        return self.better or ("higher" if self.scale == "percent" else None)

    @property
    def sources(self) -> list[str]:
        """Which of the ways to fill a column are set; there has to be one."""
        names = ("metric", "benchmark", "average", "cost", "texts")
        return [name for name in names if getattr(self, name)]


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """The table a sweep is for."""

    columns: tuple[Column, ...]
    title: str = ""
    rows: tuple[str, ...] = ()  # order of the rows; empty: as declared
    baseline: str | None = None  # the row that the others' differences refer to
    reference: str = ""  # a published table, e.g. ease/table3: its numbers stand beside ours
    notes: tuple[str, ...] = ()  # printed below the table

    def column(self, key: str) -> Column | None:
        """The column with this key."""
        return next((column for column in self.columns if column.key == key), None)

    def complaints(self, rows: list[str]) -> Iterator[tuple[tuple[str, ...], str, list[str]]]:
        """What is wrong with the columns: where, what, and the names that would be accepted."""
        keys = [column.key for column in self.columns]
        for index, column in enumerate(self.columns):
            here = ("columns", str(index))
            constant = column.id and self.reference  # only published numbers stand in it
            if len(column.sources) != 1 and not (constant and not column.sources):
                ways = "metric, benchmark, average, cost or texts"
                given = " and ".join(column.sources) or "none of them"
                yield here, f"a column has one of {ways}; this one has {given}", []
            if (column.key, column.evaluator) in [
                (c.key, c.evaluator) for c in self.columns[:index]
            ]:
                yield here, "a column is listed twice", []
            for name in column.average:
                below = self.column(name)
                if below is None or below is column:
                    yield (*here, "average"), f"there is no column {name!r}", keys
                elif below.scale != column.scale:
                    what = f"the average of {name!r} ({below.scale}) is on another scale"
                    yield (*here, "scale"), f"{what} than its column ({column.scale})", []
                elif below.average:
                    yield (*here, "average"), f"{name!r} is an average itself", []
            for name in column.texts.keys() - set(rows):
                yield (*here, "texts"), f"there is no row {name!r}", rows
