"""The sweep file: a set of runs, declared, and the table they are for.

Example::

    base:                    # overrides of every run, as on the command line, or nested settings
      - warm_start.seed=${seed}
    rows:                    # named variants; each a list of overrides or nested settings
      base: {label: Warm start, stages: [warm_start]}
      dapo: [experiment=dapo]
    axes:                    # key -> values; the product of all axes with all rows
      rollout.group_size: [4, 8]
    seeds: [1, 2]            # sets `seed`
    exclude:                 # points that match all keys of an entry are left out
      - {row: base, rollout.group_size: 8}
    launcher: {workers: 2}   # where and how many at a time
    table:
      columns:
        - {metric: accuracy, label: All, scale: percent}

A `search:` (see docs/search.md) proposes the points instead of rows and axes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vexp.config.schema import Origin
from vexp.config.types import Count
from vexp.search.base import Search
from vexp.sweeps.overrides import Override

COMMAND_LINE = "command line"  # source of overrides given beside the file


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the table: one metric of one evaluator."""

    metric: str  # as in results.json, e.g. accuracy/single
    evaluator: str = "heldout"  # the evaluator's name in the run's config
    label: str = ""  # heading; empty: the metric
    scale: Literal["none", "percent"] = "none"  # percent: the metric is a share from 0 to 1
    digits: Count | None = None  # decimals; null: 1 for percent, else 3

    @property
    def heading(self) -> str:
        label = self.label or self.metric
        return f"{label} (%)" if self.scale == "percent" else label

    @property
    def decimals(self) -> int:
        return self.digits if self.digits is not None else 1 if self.scale == "percent" else 3


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """The table a sweep is for."""

    columns: tuple[Column, ...]
    title: str = ""
    rows: tuple[str, ...] = ()  # order of the rows; empty: as declared
    baseline: str | None = None  # the row that the others' differences refer to


@dataclass(frozen=True, kw_only=True)
class Row:
    """A named variant of the base."""

    name: str
    overrides: tuple[Override, ...] = ()
    label: str = ""
    line: int = 0

    @property
    def heading(self) -> str:
        return self.label or self.name


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A key and the values it takes; each value as the overrides that set it."""

    key: str
    values: tuple[Any, ...]
    overrides: tuple[tuple[Override, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep file, read and checked as far as that is possible without composing its runs."""

    name: str
    path: Path
    description: str = ""
    base: tuple[Override, ...] = ()
    rows: tuple[Row, ...] = ()  # one nameless row when only axes are declared
    axes: tuple[Axis, ...] = ()
    seeds: tuple[int, ...] = ()
    exclude: tuple[Mapping[str, Any], ...] = ()
    table: TableSpec | None = None
    table_origins: Mapping[tuple[str, ...], Origin] = field(default_factory=dict)
    extra: tuple[Override, ...] = ()  # overrides given beside the file
    search: Search | None = None  # proposes the points, in the place of rows and axes


def default_name(path: Path) -> str:
    """The file's name, after the folders below `sweeps`: sweeps/ease/table3.yaml is ease-table3."""
    parts = path.resolve().with_suffix("").parts
    known = "sweeps" in parts[:-1]
    return "-".join(parts[len(parts) - parts[::-1].index("sweeps") :] if known else parts[-1:])


def variant_name(name: str, extra: Sequence[str]) -> str:
    """A sweep whose runs were changed from the command line is another sweep, with its own name."""
    changing = sorted(text for text in extra if not _NEUTRAL.match(text))
    return "-".join([name, *(re.sub(r"[^A-Za-z0-9._=+-]+", "_", text) for text in changing)])


# Keys that change where and how a sweep runs, not what it computes.
_NEUTRAL = re.compile(
    r"\+*(launcher|results_dir|tracker"
    r"|compute\.(device|threads|micro_batch_size|gradient_checkpointing))\b"
)


def shown_path(path: Path) -> str:
    """A path as the user would write it from here."""
    resolved, here = path.resolve(), Path.cwd()
    return str(resolved.relative_to(here) if resolved.is_relative_to(here) else path)
