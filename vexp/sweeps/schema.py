"""The sweep file: a set of runs, declared, and the table they are for.

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
        - {metric: accuracy/all, label: All, scale: percent}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vexp.config.scalars import Located, load_yaml
from vexp.config.schema import Origin, Reading, build
from vexp.config.types import Count
from vexp.errors import ConfigError, Problem, suggest
from vexp.sweeps.overrides import Override, as_overrides

ROW_SETTINGS = ("label", "overrides")  # keys of a row that are not keys of a run
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]*")


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the table: one metric of one evaluator."""

    metric: str  # as in results.json, e.g. accuracy/all
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


@dataclass(frozen=True, kw_only=True)
class _File:
    """The keys of a sweep file; those typed `Any` are read by hand below."""

    name: str = ""
    description: str = ""
    base: Any = None
    rows: Any = None
    axes: Any = None
    seeds: tuple[Count, ...] = ()
    exclude: Any = None
    launcher: Any = None
    table: TableSpec | None = None


def read_sweep(path: Path, *, extra: Sequence[str] = ()) -> Sweep:
    """Read a sweep file; `extra` are overrides from the command line, which win over the file.

    Raises:
        ConfigError: with every problem of the file, each with its line.
    """
    tree = load_yaml(path)
    return _Reader(path, tree).sweep(extra)


class _Reader:
    """Reads one file, collecting problems instead of stopping at the first."""

    def __init__(self, path: Path, tree: Located) -> None:
        self.path = path
        self.tree = tree
        self.shown = shown_path(path)
        self.origins = dict(_origins(tree, (), self.shown, 1))
        self.problems: list[Problem] = []

    def sweep(self, extra: Sequence[str]) -> Sweep:
        file = self._file()
        rows = self._rows(self.tree.get("rows"))
        axes = self._axes(self.tree.get("axes"))
        base = self._overrides(self.tree.get("base"), ("base",))
        launcher = self._launcher(self.tree.get("launcher"))
        seeds = file.seeds if file else ()
        self._check_declared(rows, axes, seeds)
        exclude = self._exclude(self.tree.get("exclude"), rows, axes, seeds)
        if file and file.table:
            self._check_table(file.table, rows)
        name = self._name(file.name if file else "")
        if self.problems or file is None:
            raise ConfigError(self.problems)
        given = tuple(Override(text, "command line") for text in extra)
        return Sweep(
            name=variant_name(name, extra),
            path=self.path,
            description=file.description,
            base=(*launcher, *base),
            rows=rows or (Row(name=""),),
            axes=axes,
            seeds=seeds,
            exclude=exclude,
            table=file.table,
            table_origins=self.origins,
            extra=given,
        )

    def _file(self) -> _File | None:
        """The keys typed by the schema; None where that failed (the problems are kept)."""
        try:
            return build(_File, self.tree, Reading(origins=self.origins))
        except ConfigError as error:
            self.problems += error.problems
            return None

    def _name(self, given: str) -> str:
        name = given or default_name(self.path)
        if not _NAME.fullmatch(name):
            self._complain(
                ("name",),
                f"{name!r} cannot name a sweep",
                "letters, digits and . _ - = + (it names a folder in results/sweeps)",
            )
        return name

    def _rows(self, tree: Any) -> tuple[Row, ...]:
        if tree is None:
            return ()
        if not isinstance(tree, Mapping):
            self._complain(("rows",), "rows have names", "`name: [overrides]` or `name: {settings}`")
            return ()
        rows = []
        for name, content in tree.items():
            here = ("rows", name)
            if not _NAME.fullmatch(name):
                self._complain(here, f"{name!r} cannot name a row", "letters, digits and . _ - = +")
            label = ""
            settings = content
            if isinstance(content, Located):
                label = content.get("label") or ""
                settings = _without(content, ROW_SETTINGS)
                if not isinstance(label, str):
                    self._complain((*here, "label"), f"the label of row {name!r} has to be text")
                    label = str(label)
            listed = content.get("overrides") if isinstance(content, Mapping) else None
            overrides = self._overrides(settings, here, f" (row {name!r})")
            overrides += self._overrides(listed, (*here, "overrides"), f" (row {name!r})")
            line = self.tree["rows"].lines.get(name, 0) if isinstance(tree, Located) else 0
            rows.append(Row(name=name, overrides=overrides, label=label, line=line))
        return tuple(rows)

    def _axes(self, tree: Any) -> tuple[Axis, ...]:
        if tree is None:
            return ()
        if not isinstance(tree, Located):
            self._complain(("axes",), "axes are `key: [values]` lines")
            return ()
        axes = []
        for key, values in tree.items():
            here = ("axes", key)
            if key == "seed":
                self._complain(here, "seeds are an axis of their own", remedy="use `seeds: [1, 2]`")
            elif not isinstance(values, list):
                self._complain(here, f"the axis {key!r} needs a list of values", f"{key}: [a, b]")
            elif not values:
                self._complain(here, f"the axis {key!r} has no values", f"{key}: [a, b]")
            elif len({repr(value) for value in values}) < len(values):
                self._complain(here, f"the axis {key!r} names a value twice")
            else:
                where = self._where(here)
                each = tuple(as_overrides({key: value}, where) for value in values)
                axes.append(Axis(key=key, values=tuple(values), overrides=each))
        return tuple(axes)

    def _launcher(self, tree: Any) -> tuple[Override, ...]:
        if tree is None:
            return ()
        wrapped = Located()
        wrapped["launcher"] = tree
        wrapped.lines["launcher"] = self.tree.lines.get("launcher", 1)
        return as_overrides(wrapped, self.shown, located=True)

    def _overrides(
        self, tree: Any, path: tuple[str, ...], note: str = ""
    ) -> tuple[Override, ...]:
        """Overrides from a list of texts or from nested settings."""
        if tree is None:
            return ()
        if isinstance(tree, Located):
            return as_overrides(tree, self.shown, located=True, note=note)
        if not isinstance(tree, list):
            self._complain(path, "expected a list of overrides or nested settings", "[key=value]")
            return ()
        found = []
        for index, text in enumerate(tree):
            if isinstance(text, str):
                found.append(Override(text, self._where((*path, str(index))) + note))
            else:
                self._complain(
                    (*path, str(index)),
                    f"an override is text like key=value, got {text!r}",
                    remedy="use `key: value` lines without the dashes for nested settings",
                )
        return tuple(found)

    def _check_declared(
        self, rows: Sequence[Row], axes: Sequence[Axis], seeds: Sequence[int]
    ) -> None:
        if len(set(seeds)) < len(seeds):
            self._complain(("seeds",), "a seed is listed twice")
        if "seeds" in self.tree and not self.tree["seeds"]:
            self._complain(("seeds",), "the list of seeds is empty", "seeds: [1, 2]")
        declared = self.tree.get("rows") or self.tree.get("axes")
        if not rows and not axes and not declared:
            self._complain(
                ("rows",), "this sweep declares no rows", "rows: {name: [overrides]}, or axes"
            )

    def _exclude(
        self, tree: Any, rows: Sequence[Row], axes: Sequence[Axis], seeds: Sequence[int]
    ) -> tuple[Mapping[str, Any], ...]:
        known = {axis.key: list(axis.values) for axis in axes}
        known |= {"row": [row.name for row in rows], "seed": list(seeds)}
        if tree is None:
            return ()
        if not isinstance(tree, list) or not all(isinstance(entry, Mapping) for entry in tree):
            self._complain(("exclude",), "expected a list of matches", "- {row: name, key: value}")
            return ()
        for index, entry in enumerate(tree):
            for key, value in entry.items():
                here = ("exclude", str(index), key)
                if key not in known:
                    self._complain(here, f"there is no axis {key!r}", suggest(key, known))
                elif value not in known[key]:
                    values = suggest(str(value), map(str, known[key]), noun="values")
                    self._complain(here, f"{key!r} never is {value!r} in this sweep", values)
        return tuple(tree)

    def _check_table(self, table: TableSpec, rows: Sequence[Row]) -> None:
        names = [row.name for row in rows]
        if not table.columns:
            self._complain(("table", "columns"), "the table has no columns", "{metric: accuracy/all}")
        headings = [(c.evaluator, c.metric) for c in table.columns]
        for index, heading in enumerate(headings):
            if heading in headings[:index]:
                self._complain(("table", "columns", str(index)), "a column is listed twice")
        for index, name in enumerate(table.rows):
            if name not in names:
                self._complain(
                    ("table", "rows", str(index)), f"there is no row {name!r}", suggest(name, names)
                )
        baseline = table.baseline
        if baseline is not None and baseline not in names:
            self._complain(
                ("table", "baseline"), f"there is no row {baseline!r}", suggest(baseline, names)
            )
        if baseline is not None and table.rows and baseline not in table.rows:
            self._complain(("table", "baseline"), f"the baseline {baseline!r} is not in `rows`")

    def _where(self, path: tuple[str, ...]) -> str:
        origin = Reading(origins=self.origins).origin(path)
        return str(origin) if origin else self.shown

    def _complain(
        self, path: tuple[str, ...], what: str, accepted: str = "", remedy: str = ""
    ) -> None:
        Reading(origins=self.origins, problems=self.problems).complain(path, what, accepted, remedy)


def default_name(path: Path) -> str:
    """The file's name, after the folders below `sweeps`: sweeps/ease/table3.yaml is ease-table3."""
    parts = path.resolve().with_suffix("").parts
    below = parts[len(parts) - parts[::-1].index("sweeps") :] if "sweeps" in parts[:-1] else parts[-1:]
    return "-".join(below)


def variant_name(name: str, extra: Sequence[str]) -> str:
    """A sweep whose runs were changed from the command line is another sweep, with its own name."""
    changing = sorted(text for text in extra if not _NEUTRAL.match(text))
    return "-".join([name, *(re.sub(r"[^A-Za-z0-9._=+-]+", "_", text) for text in changing)])


# Keys that change where and how a sweep runs, not what it computes.
_NEUTRAL = re.compile(
    r"\+*(launcher|results_dir|tracker|compute\.(device|threads|micro_batch_size))\b"
)


def shown_path(path: Path) -> str:
    """A path as the user would write it from here."""
    resolved = path.resolve()
    return str(resolved.relative_to(Path.cwd())) if resolved.is_relative_to(Path.cwd()) else str(path)


def _without(tree: Located, keys: Sequence[str]) -> Located:
    kept = Located()
    kept.update({key: value for key, value in tree.items() if key not in keys})
    kept.lines = tree.lines
    return kept


def _origins(
    tree: Any, path: tuple[str, ...], shown: str, line: int
) -> Iterator[tuple[tuple[str, ...], Origin]]:
    """Where each key and list entry stands; entries of a list have the line of the list's key."""
    if isinstance(tree, Located):
        for key, value in tree.items():
            at = tree.lines.get(key, line)
            yield (*path, key), Origin(f"{shown}:{at}", user=True)
            yield from _origins(value, (*path, key), shown, at)
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield (*path, str(index)), Origin(f"{shown}:{line}", user=True)
            yield from _origins(value, (*path, str(index)), shown, line)
