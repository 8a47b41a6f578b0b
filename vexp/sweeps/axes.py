"""The parts of a sweep file that span its points: axes, zipped axes, exclusions, resources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vexp.config.scalars import LocatedMapping
from vexp.config.schema import ConfigReading, Origin, build, field_types
from vexp.config.schema import Path as Key
from vexp.errors import ConfigError, Problem, suggest
from vexp.launcher.base import Resources
from vexp.sweeps.conditions import Condition, same
from vexp.sweeps.overrides import as_overrides, shown_value
from vexp.sweeps.schema import Axis, Row

POINT_KEYS = ("row", "seed")  # what a condition may ask beside axes and keys of the config


class AxesReader:
    """Reads these parts of one file, adding problems to `problems`."""

    def __init__(
        self,
        tree: LocatedMapping,
        origins: Mapping[Key, Origin],
        shown: str,
        problems: list[Problem],
    ) -> None:
        self.tree = tree
        self.reading = ConfigReading(origins=origins, problems=problems)
        self.shown = shown

    def axes(self) -> tuple[Axis, ...]:
        """Plain and conditional axes as declared, then the zipped ones."""
        found: list[Axis] = []
        for axis in (*self._plain(self.tree.get("axes")), *self._zipped(self.tree.get("zip"))):
            for key in axis.keys:
                if any(key in other.keys for other in found):
                    self._complain(("zip",), f"{key!r} is an axis already", "each key once")
            found.append(axis)
        self._check_order(found)
        return tuple(found)

    def exclude(
        self, rows: Sequence[Row], axes: Sequence[Axis], seeds: Sequence[int]
    ) -> tuple[Condition, ...]:
        """Points that match all keys of an entry are left out."""
        tree = self.tree.get("exclude")
        if tree is None:
            return ()
        if not isinstance(tree, list) or not all(isinstance(entry, Mapping) for entry in tree):
            self._complain(("exclude",), "expected a list of matches", "- {row: name, key: value}")
            return ()
        values = _declared(rows, axes, seeds)
        return tuple(
            self._condition(entry, ("exclude", str(index)), values)
            for index, entry in enumerate(tree)
        )

    def resources(
        self, rows: Sequence[Row], axes: Sequence[Axis], seeds: Sequence[int]
    ) -> tuple[tuple[Condition, Resources], ...]:
        """What runs ask for, by condition; later entries win over former ones."""
        tree = self.tree.get("resources")
        entries = tree if isinstance(tree, list) else [] if tree is None else [tree]
        values = _declared(rows, axes, seeds)
        found = []
        for index, entry in enumerate(entries):
            path: Key = ("resources", str(index)) if isinstance(tree, list) else ("resources",)
            if not isinstance(entry, Mapping):
                self._complain(path, "expected settings", "{gpus: 1}, or [{when: {…}, gpus: 4}]")
                continue
            when = self._when(entry, path, values)
            found += [(when, asked) for asked in self._asked(entry, path)]
        listed = self.tree.get("rows")
        for name, row in listed.items() if isinstance(listed, Mapping) else ():
            if isinstance(row, Mapping) and "resources" in row:
                path = ("rows", name, "resources")
                when = Condition({"row": (name,)})
                found += [(when, asked) for asked in self._asked(row["resources"], path)]
        return tuple(found)

    def _plain(self, tree: Any) -> Iterator[Axis]:
        if tree is None:
            return
        if not isinstance(tree, LocatedMapping):
            self._complain(("axes",), "axes are `key: [values]` lines")
            return
        for key, given in tree.items():
            path: Key = ("axes", key)
            when, values = Condition(), given
            if isinstance(given, Mapping):
                path, values = ("axes", key, "values"), given.get("values")
                for unknown in sorted(given.keys() - {"values", "when"}):
                    self._complain(
                        ("axes", key, unknown), f"an axis has no {unknown!r}", "values, when"
                    )
                when = self._when(given, ("axes", key), None)
            if self._usable(key, values, path):
                yield self._axis({key: values}, ("axes",), when)

    def _zipped(self, tree: Any) -> Iterator[Axis]:
        groups = tree if isinstance(tree, list) else [] if tree is None else [tree]
        for index, group in enumerate(groups):
            path: Key = ("zip", str(index)) if isinstance(tree, list) else ("zip",)
            if not isinstance(group, Mapping):
                self._complain(path, "zipped axes are `key: [values]` lines of one length")
                continue
            lists = {key: values for key, values in group.items() if key != "when"}
            usable = [self._usable(key, v, (*path, key), zipped=True) for key, v in lists.items()]
            lengths = {len(v) for v in lists.values() if isinstance(v, list)}
            if len(lists) < 2:
                self._complain(path, "a zip moves two axes or more together", "one key: use `axes`")
            elif all(usable) and len(lengths) > 1:
                told = ", ".join(f"{key}: {len(values)}" for key, values in lists.items())
                self._complain(path, f"zipped axes need equally many values ({told})")
            elif all(usable):
                yield self._axis(lists, path, self._when(group, path, None))

    def _axis(self, lists: Mapping[str, list[Any]], path: Key, when: Condition) -> Axis:
        where = {key: self._where((*path, key)) for key in lists}
        choices = tuple(zip(*lists.values(), strict=True))
        overrides = tuple(
            tuple(
                override
                for key, value in zip(lists, choice, strict=True)
                for override in as_overrides({key: value}, where[key])
            )
            for choice in choices
        )
        return Axis(keys=tuple(lists), choices=choices, overrides=overrides, when=when)

    def _usable(self, key: str, values: Any, path: Key, *, zipped: bool = False) -> bool:
        """Whether these can be an axis's values; complains if not."""
        if key == "seed":
            self._complain(path, "seeds are an axis of their own", remedy="use `seeds: [1, 2]`")
        elif not isinstance(values, list):
            self._complain(path, f"the axis {key!r} needs a list of values", f"{key}: [a, b]")
        elif not values:
            self._complain(path, f"the axis {key!r} has no values", f"{key}: [a, b]")
        elif not zipped and len({shown_value(value) for value in values}) < len(values):
            self._complain(path, f"the axis {key!r} names a value twice")
        else:
            return True
        return False

    def _when(
        self, tree: Mapping[str, Any], path: Key, values: Mapping[str, Sequence[Any]] | None
    ) -> Condition:
        if "when" not in tree:
            return Condition()
        if not isinstance(tree["when"], Mapping) or not tree["when"]:
            self._complain((*path, "when"), "a condition is keys and values", "{row: name, …}")
            return Condition()
        return self._condition(tree["when"], (*path, "when"), values)

    def _condition(
        self, tree: Mapping[str, Any], path: Key, declared: Mapping[str, Sequence[Any]] | None
    ) -> Condition:
        """A condition, checked against the values that the sweep declares where they are known."""
        condition = Condition.of(tree, {key: self._where((*path, key)) for key in tree})
        for key, accepted in condition.accepted.items():
            if declared is None:
                continue
            here = (*path, key)
            if key not in declared:
                if key.partition(".")[0] not in _top_level():
                    self._complain(here, f"there is no axis {key!r}", suggest(key, declared))
                continue
            for value in accepted:
                if not any(same(known, value) for known in declared[key]):
                    self._complain(
                        (*path, key),
                        f"{key!r} never is {value!r} in this sweep",
                        suggest(str(value), map(shown_value, declared[key]), noun="values"),
                    )
        return condition

    def _check_order(self, axes: Sequence[Axis]) -> None:
        """A condition may look at rows, the config, and axes that come before its own."""
        for index, axis in enumerate(axes):
            later = {key for other in axes[index:] for key in other.keys}
            known = {"row", *(key for other in axes[:index] for key in other.keys)}
            for key, source in axis.when.sources.items():
                if key in later or key == "seed":
                    what = f"the axis {axis.keys[0]!r} cannot depend on {key!r}"
                    accepted = "rows, keys of the config, and axes declared before it"
                    self.reading.problems.append(Problem(what, where=source, accepted=accepted))
                elif key not in known and key.partition(".")[0] not in _top_level():
                    self.reading.problems.append(
                        Problem(
                            f"there is no axis and no key {key!r}",
                            where=source,
                            accepted=suggest(key, [*known, *_top_level()]),
                        )
                    )

    def _asked(self, tree: Any, path: Key) -> Iterator[Resources]:
        """One entry's resources; none where they are wrong (the problems are kept)."""
        origins = {
            key[len(path) :]: origin
            for key, origin in self.reading.origins.items()
            if key[: len(path)] == path and len(key) > len(path)
        }
        if not isinstance(tree, Mapping):
            self._complain(path, "expected settings", ", ".join(field_types(Resources)))
            return
        given = {key: value for key, value in tree.items() if key != "when"}
        try:
            yield build(Resources, given, ConfigReading(origins=origins))
        except ConfigError as error:
            self.reading.problems += error.problems

    def _where(self, path: Key) -> str:
        return str(self.reading.origin(path) or self.shown)

    def _complain(self, path: Key, what: str, accepted: str = "", remedy: str = "") -> None:
        self.reading.complain(path, what, accepted, remedy)


def _declared(
    rows: Sequence[Row], axes: Sequence[Axis], seeds: Sequence[int]
) -> dict[str, list[Any]]:
    values = {
        key: [choice[index] for choice in axis.choices]
        for axis in axes
        for index, key in enumerate(axis.keys)
    }
    return values | {"row": [row.name for row in rows], "seed": list(seeds)}


def _top_level() -> list[str]:
    from vexp.spec.run import RunSpec

    return list(field_types(RunSpec))
