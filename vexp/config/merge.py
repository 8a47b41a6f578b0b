"""Laying conf files and overrides on top of each other, keeping the origin of every key."""

from __future__ import annotations

import functools
from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vexp.config import scalars
from vexp.config.folders import find, load, short
from vexp.config.grammar import shortened
from vexp.config.interpolation import interpolated
from vexp.config.schema import Origin
from vexp.config.schema import Path as Key
from vexp.errors import ConfigError, Problem, suggest

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


@dataclass(frozen=True)
class Given:
    """An override as the user gave it."""

    text: str
    parsed: Override
    source: str

    @functools.cached_property
    def key(self) -> Key:
        return tuple(self.parsed.key_or_group.replace("/", ".").split("."))

    @functools.cached_property
    def origin(self) -> Origin:
        return Origin(f"{self.source} `{shortened(self.text)}`", user=True)


@dataclass
class Merge:
    """The config under construction."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[Key, Origin] = field(default_factory=dict)

    def file(self, config_path: str, package: str, dirs: tuple[Path, ...]) -> None:
        """Lay a conf file (or a registered component's bare name) on top, at its package."""
        at = tuple(package.split(".")) if package else ()
        path = find(config_path, dirs)
        if path is None:  # an option that is a registered component and has no file
            name = config_path.rpartition("/")[2]
            origin = Origin(f"the choice {config_path}", intended=name)
            self._put((*at, "name"), name, origin)
            return
        self.content(path, at)

    def content(self, path: Path, at: Key = ()) -> None:
        """Lay what a YAML file holds on top, below `at`; its defaults list is not followed."""
        content = {key: value for key, value in load(path).items() if key != "defaults"}
        located = scalars.LocatedMapping()
        located.update(content)
        located.lines = load(path).lines
        intended = _chosen_in(load(path).get("defaults"))
        self._tree(at, located, path, intended)

    def override(self, given: Given) -> None:
        """Apply one `key=value`, `+key=value` or `~key`."""
        if given.parsed.is_delete():
            self._delete(given.key, given)
            return
        self._user(given.key, given.parsed.value(), given.origin)

    def finish(self, keys: Container[str]) -> None:
        """Replace `${key}` by the value of that key, below the top-level `keys`."""
        found = {
            key: interpolated(value, self.values, (key,), self._where)
            for key, value in self.values.items()
            if key in keys
        }
        self.values = self.values | found

    def copy(self) -> Merge:
        """One that can be laid over without changing this one."""
        return Merge(_copied(self.values), dict(self.origins))

    def part(self, keys: Collection[str]) -> Merge:
        """A copy that holds only these top-level keys."""
        values = {key: self.values[key] for key in keys if key in self.values}
        return Merge(_copied(values), {k: o for k, o in self.origins.items() if k[0] in keys})

    def _where(self, key: Key) -> str:
        return (
            f"{'.'.join(key)}, set by {self.origins[key]}" if key in self.origins else ".".join(key)
        )

    def _tree(
        self, at: Key, tree: scalars.LocatedMapping, path: Path, intended: Mapping[Key, str]
    ) -> None:
        own = tree.get("name")
        for key, value in tree.items():
            here = (*at, key)
            line = tree.lines.get(key)
            below = isinstance(value, scalars.LocatedMapping)
            name = own if isinstance(own, str) else intended.get(at) or self._name_at(at)
            origin = Origin(f"{short(path)}:{line}", intended=name)
            if below and value:
                self._ensure_mapping(here, origin)
                self._tree(here, value, path, intended)
            else:
                self._put(here, value, origin)

    def _user(self, key: Key, value: Any, origin: Origin) -> None:
        if isinstance(value, Mapping) and value:
            self._ensure_mapping(key, origin)
            for name, item in value.items():
                self._user((*key, str(name)), item, origin)
        else:
            self._put(key, value, origin)

    def _put(self, key: Key, value: Any, origin: Origin) -> None:
        parent = self._ensure_mapping(key[:-1], origin)
        present = parent.get(key[-1])
        if isinstance(value, str) and isinstance(present, Mapping):
            # a plain word where a component stands is its name
            self._put((*key, "name"), value, origin)
            return
        for known in [known for known in self.origins if known[: len(key)] == key]:
            del self.origins[known]
        parent[key[-1]] = value
        self.origins[key] = origin

    def _ensure_mapping(self, key: Key, origin: Origin) -> dict[str, Any]:
        node = self.values
        for depth, part in enumerate(key, start=1):
            below = node.get(part)
            if not isinstance(below, dict):
                below = {"name": below} if isinstance(below, str) else {}
                if below:
                    self.origins[(*key[:depth], "name")] = self.origins.pop(key[:depth], origin)
                node[part] = below
            node = below
        return node

    def _name_at(self, at: Key) -> str | None:
        node: Any = self.values
        for part in at:
            node = node.get(part) if isinstance(node, Mapping) else None
        name = node.get("name") if isinstance(node, Mapping) else node
        return name if isinstance(name, str) else None

    def _delete(self, key: Key, given: Given) -> None:
        if not self.drop(key):
            siblings = self._at(key[:-1]) or {}
            raise ConfigError(
                Problem(
                    f"there is no {'.'.join(key)!r} to delete",
                    where=str(given.origin),
                    accepted=suggest(key[-1], list(siblings)),
                )
            )

    def drop(self, key: Key) -> bool:
        """Take a key out, and all below it; whether it was there."""
        node = self._at(key[:-1])
        if node is None or key[-1] not in node:
            return False
        del node[key[-1]]
        for known in [known for known in self.origins if known[: len(key)] == key]:
            del self.origins[known]
        return True

    def _at(self, key: Key) -> dict[str, Any] | None:
        node: Any = self.values
        for part in key:
            node = node.get(part) if isinstance(node, dict) else None
        return node if isinstance(node, dict) else None


def _copied(tree: dict[str, Any]) -> dict[str, Any]:
    return {k: _copied(v) if isinstance(v, dict) else v for k, v in tree.items()}


def _chosen_in(defaults: Any) -> dict[Key, str]:
    """Which component names a conf file chooses by `override /group@place: name`."""
    found: dict[Key, str] = {}
    for entry in defaults if isinstance(defaults, list) else ():
        for key, value in entry.items() if isinstance(entry, Mapping) else ():
            group = str(key).removeprefix("override ").strip().lstrip("/")
            group, _, place = group.partition("@")
            if isinstance(value, str):
                found[tuple((place or group).replace("/", ".").split("."))] = value
    return found


def flat(tree: Mapping[str, Any], prefix: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Leaves of nested mappings with their keys."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, (*prefix, key))
        else:
            yield (*prefix, key), value
