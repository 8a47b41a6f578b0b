"""Composing many runs that share most of what they are, each as `resolve` alone would give it.

Hydra needs tens of milliseconds for the order of the files. It depends only on the overrides that
choose files, so it is asked once for each combination of those; the other overrides set values and
are laid on top. A section of the config that nothing touches is built once for its combination.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vexp.config.compose import (
    Composed,
    Overlay,
    parse,
    plugins_of,
    unknown_options,
    without,
)
from vexp.config.folders import search_dirs
from vexp.config.identity import Identity, plain, training_id
from vexp.config.merge import Given, Merge
from vexp.config.schema import build, build_field, field_types
from vexp.errors import ConfigError, Problem
from vexp.registry import REGISTRY

if TYPE_CHECKING:
    from vexp.spec import RunSpec

Choice = tuple[str, ...]  # the overrides that choose files


@dataclass(frozen=True)
class _Files:
    """The files of one choice, merged."""

    merge: Merge
    references: frozenset[str]  # top-level keys below which something refers to another key


@dataclass(repr=False)
class Composer:
    """Resolves runs one after the other, remembering what they have in common.

    It believes that files and plugins stay as they are while it lives.
    """

    config_dirs: Sequence[Path] = ()
    _given: dict[tuple[str, str], tuple[Given | None, tuple[Problem, ...]]] = field(
        default_factory=dict
    )
    _known: set[tuple[str, str]] = field(default_factory=set)
    _chooses: dict[str, bool] = field(default_factory=dict)
    _files: dict[Choice, _Files | ConfigError] = field(default_factory=dict)
    _sections: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    _plain: dict[int, tuple[Any, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._dirs = search_dirs(self.config_dirs)

    def resolve(self, overrides: Sequence[str], source: Sequence[str]) -> RunSpec:
        """As `vexp.config.compose.resolve`, with a source for each override.

        Raises:
            ConfigError: with every problem found, each with its origin.
        """
        from vexp.spec import RunSpec

        found: list[Problem] = []
        overlay = self._overlay(overrides, source, found)
        choice = tuple(given.text for given in overlay.groups)
        composed = self._composed(choice, overlay)
        try:
            run = self._built(choice, overlay, composed) or build(
                RunSpec, composed.values, composed.reading()
            )
        except ConfigError as error:
            raise ConfigError([*found, *error.problems]) from None
        if found:
            raise ConfigError(found)
        return run

    def values(self, overrides: Sequence[str], source: Sequence[str]) -> dict[str, Any]:
        """The merged config before the schema, as far as it can be composed.

        Raises:
            ConfigError: if it cannot be composed at all.
        """
        overlay = self._overlay(overrides, source, [])
        return self._composed(tuple(given.text for given in overlay.groups), overlay).values

    def identity(self, run: RunSpec) -> Identity:
        """As `training_id`."""
        return training_id(run, self._plain_form)

    def _overlay(
        self, overrides: Sequence[str], sources: Sequence[str], found: list[Problem]
    ) -> Overlay:
        given = []
        for text, source in zip(overrides, sources, strict=True):
            one, problems = self._parsed(text, source)
            found += problems
            given += [one] if one else []
        new = [one for one in given if (one.text, one.source) not in self._known]
        if new or not self._known:
            REGISTRY.load_plugins(plugins_of(new, self._dirs))
        unknown: set[str] = set()
        for one in new:
            if wrong := unknown_options(one, self._dirs):
                unknown.add(one.parsed.key_or_group)
                found += wrong
            else:
                self._known.add((one.text, one.source))
        kept = without(given, unknown, self._dirs)
        groups = tuple(one for one in kept if self._is_choice(one))
        settings = tuple(one for one in kept if not self._is_choice(one))
        return Overlay(groups, settings, self._dirs)

    def _parsed(self, text: str, source: str) -> tuple[Given | None, tuple[Problem, ...]]:
        key = (text, source)
        if key not in self._given:
            problems: list[Problem] = []
            read = parse([text], [source], problems)
            self._given[key] = (read[0] if read else None, tuple(problems))
        return self._given[key]

    def _is_choice(self, given: Given) -> bool:
        if given.text not in self._chooses:
            from vexp.config.defaults import chooses_files

            self._chooses[given.text] = chooses_files(given.parsed, self._dirs)
        return self._chooses[given.text]

    def _composed(self, choice: Choice, overlay: Overlay) -> Composed:
        if choice not in self._files:
            try:
                merge = overlay.files()
            except ConfigError as error:
                self._files[choice] = error
            else:
                refer = frozenset(k for k, v in merge.values.items() if _refers(v))
                self._files[choice] = _Files(merge, refer)
        files = self._files[choice]
        if isinstance(files, ConfigError):
            raise files
        touched = {given.key[0] for given in overlay.settings}
        return overlay.composed(files.merge.copy(), files.references | touched)

    def _built(self, choice: Choice, overlay: Overlay, composed: Composed) -> RunSpec | None:
        """The run, from sections that may have been built before; None where that does not go."""
        from vexp.spec import RunSpec

        files, reading = self._files[choice], composed.reading()
        assert isinstance(files, _Files)
        if not composed.values.keys() <= field_types(RunSpec).keys():
            return None
        own: dict[str, list[str]] = {key: [] for key in files.references}
        for given in overlay.settings:
            own.setdefault(given.key[0], []).append(given.text)
        sections = {}
        try:
            for key, tree in composed.values.items():
                told = (repr(tree), *own[key]) if key in own else ()
                place = (choice, key, told)
                if place not in self._sections:
                    self._sections[place] = build_field(RunSpec, key, tree, reading)
                sections[key] = self._sections[place]
            return RunSpec(**sections)
        except (ConfigError, TypeError):
            return None

    def _plain_form(self, value: Any) -> Any:
        known = self._plain.get(id(value))
        if known is None:
            known = self._plain[id(value)] = (value, plain(value))
        return known[1]


def _refers(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_refers, value.values()))
    if isinstance(value, list):
        return any(map(_refers, value))
    return isinstance(value, str) and "${" in value
