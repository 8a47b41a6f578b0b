"""Reads a sweep file, collecting every problem with its line instead of stopping at the first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vexp import masking
from vexp.config.scalars import LocatedMapping, load_yaml
from vexp.config.schema import ConfigReading, Origin, build
from vexp.config.types import Count
from vexp.errors import ConfigError, Problem, suggest
from vexp.names import LONGEST, hashed_name
from vexp.search.base import Search
from vexp.sweeps.adhoc import KEPT
from vexp.sweeps.axes import AxesReader
from vexp.sweeps.circuit_breaker import HOLD_AFTER
from vexp.sweeps.overrides import Override, as_overrides
from vexp.sweeps.schema import (
    COMMAND_LINE,
    Axis,
    Row,
    Sweep,
    TableSpec,
    default_name,
    shown_path,
    variant_name,
)
from vexp.sweeps.table import Column, Scale, Test

# Keys of a row that are not keys of a run.
ROW_SETTINGS = (
    "label", "overrides", "group", "external", "proposed", "reference", "metric", "scale",
    "compares", "test", "note", "at", "resources",
)  # fmt: skip
DEFAULT_SCALE = "tiny"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]*")


def read_sweep(path: Path, *, extra: Sequence[str] = (), text: str | None = None) -> Sweep:
    """Read a sweep file; `extra` are overrides from the command line, which win over the file.

    `text` is its content where it is not written yet.

    Raises:
        ConfigError: with every problem of the file, each with its line.
    """
    tree = load_yaml(path, text=_kept(path) if text is None else text)
    return _Reader(path, tree).sweep(extra)


def _kept(path: Path) -> str | None:
    """The text of a sweep that was given on the command line; values that it names are put back."""
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError):  # which is said where it is read
        return None
    return masking.restored_text(text, str(path)) if text.startswith(KEPT) else None


@dataclass(frozen=True, kw_only=True)
class _File:
    """The keys of a sweep file; those typed `Any` are read by hand below."""

    name: str = ""
    description: str = ""
    base: Any = None
    at: Any = None
    rows: Any = None
    axes: Any = None
    zip: Any = None
    seeds: tuple[Count, ...] = ()
    exclude: Any = None
    evaluation: Any = None
    launcher: Any = None
    resources: Any = None
    hold_after: Count = HOLD_AFTER
    table: TableSpec | None = None
    search: Search | None = None


@dataclass(frozen=True, kw_only=True)
class _About:
    """The fields of a row that are not settings of its runs; see `Row`."""

    label: str = ""
    group: str = ""
    external: bool = False
    proposed: bool = False
    reference: str = ""
    metric: str = ""
    scale: Scale | None = None
    compares: tuple[str, ...] = ()
    test: Test = "seeds"
    note: str = ""


def _trials_table(search: Search | None) -> TableSpec | None:
    """What a search shows that declares no table: its objectives, a row for each trial."""
    if search is None:
        return None
    columns = (
        Column(
            metric=objective.metric,
            evaluator=objective.evaluator,
            id=f"{objective.evaluator}/{objective.metric}",
            label=objective.metric,
            better="higher" if objective.direction == "maximize" else "lower",
        )
        for objective in search.objectives
    )
    return TableSpec(columns=tuple(columns))


class _Reader:
    """Reads one file, collecting problems instead of stopping at the first."""

    def __init__(self, path: Path, tree: LocatedMapping) -> None:
        self.path = path
        self.tree = tree
        self.shown = shown_path(path)
        self.origins = dict(_origins(tree, (), self.shown, 1))
        self.problems: list[Problem] = []
        self.scale = DEFAULT_SCALE

    def sweep(self, extra: Sequence[str]) -> Sweep:
        file = self._file()
        self.scale = _scale([*_texts(self.tree.get("base")), *extra])
        rows = self._rows(self.tree.get("rows"))
        spans = AxesReader(self.tree, self.origins, self.shown, self.problems)
        axes = spans.axes()
        base = self._overrides(self.tree.get("base"), ("base",))
        base += self._at(self.tree.get("at"), ("at",))
        launcher = self._launcher(extra)
        evaluation = self._below("evaluator", self.tree.get("evaluation"), "evaluation")
        listed = self.tree.get("seeds")
        listed = listed if isinstance(listed, list) else []
        seeds = tuple(seed for seed in listed if type(seed) is int)
        self._check_declared(rows, axes, seeds)
        exclude = spans.exclude(rows, axes, seeds)
        resources = spans.resources(rows, axes, seeds)
        if file and file.table:
            self._check_table(file.table, rows)
        name = self._name(file.name if file else "")
        if self.problems or file is None:
            raise ConfigError(self.problems)
        given = tuple(Override(text, COMMAND_LINE) for text in extra)
        return Sweep(
            name=variant_name(name, extra),
            path=self.path,
            description=file.description,
            base=(*launcher, *evaluation, *base),
            rows=rows or (Row(name=""),),
            axes=axes,
            seeds=seeds,
            exclude=exclude,
            resources=resources,
            hold_after=file.hold_after,
            table=file.table or _trials_table(file.search),
            table_origins=self.origins,
            extra=given,
            search=file.search,
        )

    def _file(self) -> _File | None:
        """The keys typed by the schema; None where that failed (the problems are kept)."""
        try:
            return build(_File, self.tree, ConfigReading(origins=self.origins))
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
                remedy="" if given else "give it a name within the file, e.g. `name: table1`",
            )
        return name if len(name) <= LONGEST else hashed_name(name, name)

    def _rows(self, tree: Any) -> tuple[Row, ...]:
        if tree is None:
            return ()
        if not isinstance(tree, Mapping):
            self._complain(("rows",), "rows have names", "name: [overrides], or name: {settings}")
            return ()
        rows = []
        for name, content in tree.items():
            here = ("rows", name)
            if not _NAME.fullmatch(name):
                self._complain(here, f"{name!r} cannot name a row", "letters, digits and . _ - = +")
            about = _About()
            settings = content
            if isinstance(content, LocatedMapping):
                about = self._about(content, here)
                settings = _without(content, ROW_SETTINGS)
            listed = content.get("overrides") if isinstance(content, Mapping) else None
            overrides = self._overrides(settings, here, f" (row {name!r})")
            overrides += self._overrides(listed, (*here, "overrides"), f" (row {name!r})")
            if isinstance(content, Mapping):
                overrides += self._at(content.get("at"), (*here, "at"), f" (row {name!r})")
            line = self.tree["rows"].lines.get(name, 0) if isinstance(tree, LocatedMapping) else 0
            if overrides and (about.external or about.compares):
                self._complain(here, f"row {name!r} has no runs, so nothing can be set for it")
            rows.append(Row(name=name, overrides=overrides, line=line, **vars(about)))
        return tuple(rows)

    def _at(self, tree: Any, path: tuple[str, ...], note: str = "") -> tuple[Override, ...]:
        """The overrides of the scale that is chosen, e.g. `at: {ease_paper: [backbone=…]}`."""
        if tree is None:
            return ()
        if not isinstance(tree, Mapping):
            self._complain(path, "expected a scale and its overrides", "at: {tiny: [key=value]}")
            return ()
        found = self._overrides(tree.get(self.scale), (*path, self.scale), note)
        for scale in tree:  # those of other scales are read too, so that a mistake shows at once
            if scale != self.scale:
                self._overrides(tree[scale], (*path, scale), note)
        return found

    def _about(self, content: LocatedMapping, here: tuple[str, ...]) -> _About:
        """What a row says of itself, beside the settings of its runs."""
        given = {
            key: content[key]
            for key in ROW_SETTINGS
            if key in content and key not in ("overrides", "at", "resources")
        }
        reading = ConfigReading(
            origins={path[2:]: o for path, o in self.origins.items() if path[:2] == here}
        )
        try:
            return build(_About, given, reading)
        except ConfigError as error:
            self.problems += error.problems
            return _About()

    def _launcher(self, extra: Sequence[str]) -> tuple[Override, ...]:
        """The file's launcher; with another one on the command line, its settings go with it."""
        tree = self.tree.get("launcher")
        name = tree.get("name") if isinstance(tree, Mapping) else tree
        chosen = _chosen("launcher", extra) or _chosen("launcher.name", extra)
        if chosen and isinstance(name, str) and chosen != name:
            return ()
        return self._below("launcher", tree)

    def _below(self, key: str, tree: Any, named: str = "") -> tuple[Override, ...]:
        """The settings of a part of the file as overrides below a key of the run."""
        if tree is None:
            return ()
        named = named or key
        if named == "evaluation" and not isinstance(tree, Mapping):
            self._complain((named,), "evaluators have names", "heldout: {size: 500}")
            return ()
        wrapped = LocatedMapping()
        wrapped[key] = tree
        wrapped.lines[key] = self.tree.lines.get(named, 1)
        return as_overrides(wrapped, self.shown, located=True)

    def _overrides(self, tree: Any, path: tuple[str, ...], note: str = "") -> tuple[Override, ...]:
        """Overrides from a list of texts or from nested settings."""
        if tree is None:
            return ()
        if isinstance(tree, LocatedMapping):
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
        headings = [(row.group, row.heading) for row in rows]
        for index, row in enumerate(rows):
            if headings[index] in headings[:index]:
                self._complain(
                    ("rows", row.name),
                    f"two rows are called {row.heading!r}",
                    remedy="give it a label",
                )
        if len(set(seeds)) < len(seeds):
            self._complain(("seeds",), "a seed is listed twice")
        if "seeds" in self.tree and not self.tree["seeds"]:
            self._complain(("seeds",), "the list of seeds is empty", "seeds: [1, 2]")
        if "search" in self.tree:
            for key in ("rows", "axes", "zip", "exclude"):
                if self.tree.get(key):
                    self._complain(
                        (key,), f"a search proposes the points itself, so `{key}` has no place"
                    )
            return
        declared = self.tree.get("rows") or self.tree.get("axes") or self.tree.get("zip")
        if not rows and not axes and not declared:
            self._complain(
                ("rows",), "this sweep declares no rows", "rows: {name: [overrides]}, or axes"
            )

    def _check_table(self, table: TableSpec, rows: Sequence[Row]) -> None:
        names = [row.name for row in rows]
        if not table.columns:
            self._complain(("table", "columns"), "the table has no columns", "{metric: accuracy}")
        for path, what, known in table.complaints(names):
            self._complain(("table", *path), what, suggest("", known) if known else "")
        for row in rows:
            for name in row.compares:
                if name not in [other.name for other in rows if other.runs]:
                    here = ("rows", row.name, "compares")
                    self._complain(here, f"there is no row {name!r}", suggest(name, names))
            if row.compares and len(row.compares) != 2:
                self._complain(("rows", row.name, "compares"), "a comparison takes two rows")
            if row.test != "seeds" and not row.compares:
                self._complain(
                    ("rows", row.name, "test"), "a test is of two rows: `compares` names them"
                )
            if row.external and not table.reference:
                self._complain(
                    ("rows", row.name, "external"),
                    f"row {row.name!r} is a constant, but the table has no `reference`",
                    remedy="name the published table, e.g. reference: ease/table2",
                )
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
        origin = ConfigReading(origins=self.origins).origin(path)
        return str(origin) if origin else self.shown

    def _complain(
        self, path: tuple[str, ...], what: str, accepted: str = "", remedy: str = ""
    ) -> None:
        ConfigReading(origins=self.origins, problems=self.problems).complain(
            path, what, accepted, remedy
        )


def _texts(tree: Any) -> list[str]:
    return [text for text in tree if isinstance(text, str)] if isinstance(tree, list) else []


def _scale(overrides: Sequence[str]) -> str:
    """The scale that these overrides choose; the last one counts."""
    return _chosen("scale", overrides) or DEFAULT_SCALE


def _chosen(key: str, overrides: Sequence[str]) -> str:
    """What the last override of a key says; empty without one."""
    found = [text.partition("=")[2] for text in overrides if text.startswith(f"{key}=")]
    return found[-1] if found else ""


def _without(tree: LocatedMapping, keys: Sequence[str]) -> LocatedMapping:
    kept = LocatedMapping()
    kept.update({key: value for key, value in tree.items() if key not in keys})
    kept.lines = tree.lines
    return kept


def _origins(
    tree: Any, path: tuple[str, ...], shown: str, line: int
) -> Iterator[tuple[tuple[str, ...], Origin]]:
    """Where each key and list entry stands; a plain entry has the line of its list's key."""
    if isinstance(tree, LocatedMapping):
        for key, value in tree.items():
            at = tree.lines.get(key, line)
            yield (*path, key), Origin(f"{shown}:{at}", user=True)
            yield from _origins(value, (*path, key), shown, at)
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            own = list(value.lines.values()) if isinstance(value, LocatedMapping) else []
            at = min(own, default=line)
            yield (*path, str(index)), Origin(f"{shown}:{at}", user=True)
            yield from _origins(value, (*path, str(index)), shown, at)
