"""Composing many runs that share most of what they are, each as `resolve` alone would give it.

Hydra needs tens of milliseconds for the order of the files. It depends only on the overrides that
choose files, so it is asked once for each combination of those; the other overrides set values and
are laid on top. A section of the config depends on the files, on what is set below it, and on the
sections that it refers to by `${key}`: it is built once for each combination of these.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vexp.config.compose import (
    Composed,
    Overlay,
    is_null_option,
    parse,
    plugins_of,
    unknown_options,
    without,
)
from vexp.config.folders import search_dirs
from vexp.config.interpolation import is_marked, referred
from vexp.config.merge import Given, Merge
from vexp.config.schema import build, build_field, field_types
from vexp.errors import ConfigError, Problem
from vexp.registry import REGISTRY
from vexp.spec.identity import Hashed, Identity, training_id
from vexp.spec.section_cache import SectionCache

if TYPE_CHECKING:
    from vexp.spec.run import RunSpec

Choice = tuple[str, ...]  # the overrides that choose files
_Parted = tuple[tuple[str, ...], Mapping[str, Any]]  # sections that are set, the others built
Settings = dict[str, tuple[str, ...]]  # the other ones, by the section that they set


@dataclass(frozen=True)
class _Files:
    """The files of one choice, merged."""

    merge: Merge

    @functools.cached_property
    def references(self) -> Mapping[str, frozenset[str]]:
        """Section -> other sections that it refers to; only those with a reference or an escape."""
        values = self.merge.values.items()
        return {key: frozenset(referred(value)) for key, value in values if is_marked(value)}


def _remembering_check() -> SectionCache[list[Problem]]:
    from vexp.spec.problems import problems_of

    return SectionCache(problems_of)


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
    _sound: dict[str, Given] = field(default_factory=dict)  # overrides without a catch, by text
    _refers: dict[str, frozenset[str]] = field(default_factory=dict)  # sections that they name
    _files: dict[Choice, _Files | ConfigError] = field(default_factory=dict)
    _shared: dict[tuple[Choice, tuple[str, ...]], _Parted] = field(default_factory=dict)
    _sections: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    _unsaid: dict[str, Any] = field(default_factory=dict)
    # By the section's id; it is kept, so that no other one can come to have that id.
    _hashed: dict[int, tuple[Any, Hashed]] = field(default_factory=dict)
    _check: SectionCache[list[Problem]] = field(default_factory=_remembering_check)

    def __post_init__(self) -> None:
        self._dirs = search_dirs(self.config_dirs)

    def resolve(self, overrides: Sequence[str], source: Sequence[str]) -> RunSpec:
        """As `vexp.config.compose.resolve`, with a source for each override.

        Raises:
            ConfigError: with every problem found, each with its origin.
        """
        return self._from_sections(overrides, source) or self._whole(overrides, source)

    def values(self, overrides: Sequence[str], source: Sequence[str]) -> dict[str, Any]:
        """The merged config before the schema, as far as it can be composed.

        Raises:
            ConfigError: if it cannot be composed at all.
        """
        overlay = self._overlay(overrides, source, [])
        return self._composed(tuple(given.text for given in overlay.groups), overlay).values

    def identity(self, run: RunSpec) -> Identity:
        """As `training_id`."""
        return training_id(run, self._hash_once)

    def _whole(self, overrides: Sequence[str], source: Sequence[str]) -> RunSpec:
        """The run by the ordinary way, with all that is wrong with it."""
        from vexp.spec.run import RunSpec

        found: list[Problem] = []
        overlay = self._overlay(overrides, source, found)
        composed = self._composed(tuple(given.text for given in overlay.groups), overlay)
        try:
            run = build(RunSpec, composed.values, composed.reading())
        except ConfigError as error:
            raise ConfigError([*found, *error.problems]) from None
        if found:
            raise ConfigError(found)
        return run

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
                if not is_null_option(one, self._dirs):
                    self._sound[one.text] = one
                    self._refers[one.text] = frozenset(referred(one.parsed.value()))
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

    def _merged(self, choice: Choice, overlay: Overlay) -> _Files:
        if choice not in self._files:
            try:
                self._files[choice] = _Files(overlay.files())
            except ConfigError as error:
                self._files[choice] = error
        files = self._files[choice]
        if isinstance(files, ConfigError):
            raise files
        return files

    def _composed(self, choice: Choice, overlay: Overlay) -> Composed:
        files = self._merged(choice, overlay)
        touched = {given.key[0] for given in overlay.settings}
        return overlay.composed(files.merge.copy(), files.references.keys() | touched)

    def _from_sections(self, overrides: Sequence[str], source: Sequence[str]) -> RunSpec | None:
        """The run, from sections that may have been built before; None where that does not go."""
        from vexp.spec.run import RunSpec

        told = self._told(overrides) or self._told_anew(overrides, source)
        if told is None:
            return None
        choice, settings = told
        try:
            files = self._files.get(choice) or self._merged(choice, self._choosing(choice))
            if isinstance(files, ConfigError) or not settings.keys() <= field_types(RunSpec).keys():
                return None
            touched, sections = self._untouched(choice, files, tuple(settings))
            built = {key: self._section(choice, files, key, settings) for key in touched}
            there = {key: value for key, value in built.items() if value is not _ABSENT}
            return RunSpec(**sections, **there, check=self._check)
        except (ConfigError, TypeError):
            return None

    def _told(self, overrides: Sequence[str]) -> tuple[Choice, Settings] | None:
        """The overrides told apart; None if one is new, or has a catch."""
        choice: list[str] = []
        settings: Settings = {}
        for text in overrides:
            given = self._sound.get(text)
            if given is None:
                return None
            if self._is_choice(given):
                choice.append(text)
            else:
                key = given.key[0]
                settings[key] = (*settings.get(key, ()), text)
        return tuple(choice), settings

    def _told_anew(
        self, overrides: Sequence[str], source: Sequence[str]
    ) -> tuple[Choice, Settings] | None:
        found: list[Problem] = []
        self._overlay(overrides, source, found)
        return None if found else self._told(overrides)

    def _choosing(self, choice: Choice, settings: Iterable[str] = ()) -> Overlay:
        sound = self._sound
        groups, rest = (tuple(sound[text] for text in texts) for texts in (choice, settings))
        return Overlay(groups, rest, self._dirs)

    def _untouched(self, choice: Choice, files: _Files, keys: tuple[str, ...]) -> _Parted:
        """The sections that settings below `keys` reach, and the others, built."""
        place = (choice, keys)
        known = self._shared.get(place)
        if known is None:
            set_here: Settings = dict.fromkeys(keys, ())
            reached = [
                key
                for key in files.merge.values
                if not set_here.keys().isdisjoint(self._read(files, key, set_here))
            ]
            touched = tuple(dict.fromkeys((*keys, *reached)))
            rest = files.merge.values.keys() - reached
            built = {key: self._section(choice, files, key, {}) for key in rest}
            built |= {key: self._default(key) for key in _defaults().keys() - {*touched, *built}}
            known = self._shared[place] = (touched, built)
        return known

    def _default(self, key: str) -> Any:
        """The section of every run that says nothing about it."""
        if key not in self._unsaid:
            self._unsaid[key] = _defaults()[key]()
        return self._unsaid[key]

    def _read(self, files: _Files, key: str, settings: Settings) -> list[str]:
        """A section, and all that it refers to, those that they refer to among them."""
        found = [key]
        for one in found:  # grows
            named = files.references.get(one) or ()
            for text in settings.get(one, ()):
                if refers := self._refers[text]:
                    named = refers.union(named)
            if named:
                found += sorted(set(named).difference(found))
        return found

    def _section(self, choice: Choice, files: _Files, key: str, settings: Settings) -> Any:
        """One field of the run; _ABSENT where it was deleted.

        Raises:
            ConfigError: with everything that is wrong in this part.
        """
        from vexp.spec.run import RunSpec

        read = self._read(files, key, settings)
        place = (choice, *((one, settings.get(one)) for one in read))
        if place not in self._sections:
            texts = [text for one in read for text in settings.get(one, ())]
            overlay = self._choosing(choice, texts)
            composed = overlay.composed(files.merge.part(read), read)
            self._sections[place] = (
                build_field(RunSpec, key, composed.values[key], composed.reading())
                if key in composed.values
                else _ABSENT
            )
        return self._sections[place]

    def _hash_once(self, value: Any) -> Hashed:
        known = self._hashed.get(id(value))
        if known is None:
            known = self._hashed[id(value)] = (value, Hashed.of(value))
        return known[1]


_ABSENT = object()


@functools.cache
def _defaults() -> dict[str, Callable[[], Any]]:
    """What makes the sections that a run has by itself."""
    from vexp.spec.run import RunSpec

    made = {f.name: f.default_factory for f in dataclasses.fields(RunSpec)}
    return {name: make for name, make in made.items() if make is not dataclasses.MISSING}
