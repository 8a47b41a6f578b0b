"""Compose a run's config from conf files and overrides, remembering where each value came from.

Hydra decides which files take part and in which order (groups, packages, defaults lists, overlays)
and parses the overrides. The merge is ours: it reads every scalar by one rule, keeps the origin of
each key, and treats a plain word where a component stands as that component's name.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vexp.config.folders import find, load, search_dirs, variant, variants
from vexp.config.grammar import read_override, several
from vexp.config.merge import Given, Merge
from vexp.config.schema import ConfigReading, Origin
from vexp.config.schema import Path as Key
from vexp.errors import ConfigError, Problem, suggest
from vexp.paths import expanded
from vexp.registry import KINDS, REGISTRY, unknown_component

PRIMARY = "config"  # conf/config.yaml, the one file with the defaults list


@dataclass(frozen=True)
class Composed:
    """A merged config, not yet typed."""

    values: dict[str, Any]
    origins: dict[Key, Origin]
    config_dirs: tuple[Path, ...]

    def reading(self) -> ConfigReading:
        """What the schema needs to know about this config."""
        dirs = self.config_dirs
        return ConfigReading(
            origins=self.origins,
            variant=lambda kind, name: variant(kind, name, dirs),
            variants=lambda kind: variants(kind, dirs),
        )


def compose(
    overrides: Sequence[str],
    *,
    config_dirs: Iterable[Path] = (),
    source: str | Sequence[str] = "override",
    found: list[Problem] | None = None,
    primary: str = PRIMARY,
    files: Sequence[Path] = (),
) -> Composed:
    """Merge conf files and overrides.

    `primary` is the file with the defaults list; `files` are a user's own, laid on top of what that
    list chooses and below the overrides.

    With `found`, what is wrong with single overrides is added to it and they are left out, so that
    the caller can look for more; without it, they are raised.

    `overrides` follow Hydra's grammar; `source` says where they come from, one for all or one for
    each. Folders are searched in this order: `config_dirs`, ./conf, the conf that ships with vexp.

    Raises:
        ConfigError: for overrides that cannot be parsed, unknown options and conf files that
            cannot be read, all at once where possible.
    """
    dirs = search_dirs(config_dirs)
    sources = [source] * len(overrides) if isinstance(source, str) else list(source)
    wrong: list[Problem] = []
    parsed = parse(overrides, sources, wrong)
    REGISTRY.load_plugins(plugins_of(parsed, dirs, [find(primary, dirs), *files]))
    parsed = known(parsed, dirs, wrong)
    if wrong and found is None:
        raise ConfigError(wrong)
    if found is not None:
        found += wrong
    overlay = Overlay.of(parsed, dirs)
    merge = overlay.files(primary)
    for path in files:
        merge.content(path)
    return overlay.composed(merge, merge.values)


@dataclass(frozen=True)
class Overlay:
    """The overrides of one run, told apart: those that choose files, and those that set values."""

    groups: tuple[Given, ...]
    settings: tuple[Given, ...]
    dirs: tuple[Path, ...]

    @classmethod
    def of(cls, parsed: Iterable[Given], dirs: tuple[Path, ...]) -> Overlay:
        from vexp.config.defaults import chooses_files  # imports Hydra, which takes a while

        groups: list[Given] = []
        settings: list[Given] = []
        for given in parsed:
            (groups if chooses_files(given.parsed, dirs) else settings).append(given)
        return cls(tuple(groups), tuple(settings), dirs)

    def files(self, primary: str = PRIMARY) -> Merge:
        """The chosen conf files, laid on top of each other in Hydra's order.

        Raises:
            ConfigError: if an option, or a file that a defaults list names, does not exist.
        """
        from vexp.config.defaults import defaults_list

        merge = Merge()
        defaults = defaults_list(primary, [given.parsed for given in self.groups], self.dirs)
        for default in defaults.defaults:
            if default.config_path:
                merge.file(default.config_path, default.package or "", self.dirs)
        for given in self.groups:
            if given.parsed.is_delete():
                merge.drop(given.key)  # with what other files set of the choice that is no more
        return merge

    def composed(self, merge: Merge, references: Container[str]) -> Composed:
        """`merge` with the settings laid on top; keys of `references` may refer to other keys."""
        for given in self.settings:
            merge.override(given)
        merge.finish(references)
        values = merge.values
        if "plugins" in values:
            values["plugins"] = [str(expanded(p).resolve()) for p in values["plugins"]]
        return Composed(values, merge.origins, self.dirs)


def parse(overrides: Sequence[str], sources: Sequence[str], problems: list[Problem]) -> list[Given]:
    """The overrides that can be read; what is wrong with the others is added to `problems`."""
    found: list[Given] = []
    for text, source in zip(overrides, sources, strict=True):
        where = f"{source} `{text}`"
        try:
            parsed = read_override(text, where)
        except ConfigError as error:
            problems += error.problems
            continue
        if not parsed.key_or_group:
            problems.append(Problem("this override has no key", where=where))
        elif parsed.is_sweep_override():
            problems.append(several(parsed, where))
        elif parsed.package is not None and parsed.key_or_group in KINDS and parsed.is_delete():
            problems.append(Problem("a component cannot be deleted by group", where=where))
        else:
            found.append(Given(text, parsed, source))
    return found


def plugins_of(
    parsed: Iterable[Given], dirs: tuple[Path, ...], read: Iterable[Path | None] | None = None
) -> list[str]:
    """Plugin files named by overrides, by chosen overlays, and by the files that are read anyway.

    These are the primary config where nothing else is said.

    They have to be imported before Hydra looks up options, which may be theirs.
    """
    found: list[str] = []
    files = [find(PRIMARY, dirs)] if read is None else list(read)
    for given in parsed:
        value = given.parsed.value()
        if given.parsed.key_or_group == "plugins":
            found += value if isinstance(value, list) else [str(value)]
        elif isinstance(value, str) and given.parsed.key_or_group not in KINDS:
            files.append(find(f"{given.parsed.key_or_group}/{value}", dirs))
    for file in files:
        if file is not None:
            listed = load(file).get("plugins") or []
            found += listed if isinstance(listed, list) else [listed]
    return [path for path in found if isinstance(path, str)]


def known(parsed: Sequence[Given], dirs: tuple[Path, ...], problems: list[Problem]) -> list[Given]:
    """Report every unknown option at once (Hydra would stop at the first); the other overrides.

    What was set below an unknown option is left out with it: it cannot be judged.
    """
    unknown: set[str] = set()
    for given in parsed:
        if wrong := unknown_options(given, dirs):
            unknown.add(given.parsed.key_or_group)
            problems += wrong
    return without(parsed, unknown, dirs)


def unknown_options(given: Given, dirs: tuple[Path, ...]) -> list[Problem]:
    """What is wrong with the option that an override chooses; empty for one that chooses none."""
    group, value, where = given.parsed.key_or_group, given.parsed.value(), str(given.origin)
    options = options_of(group, dirs)
    if not options or given.parsed.is_delete() or (value is None and group not in KINDS):
        return []
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        missing = [item for item in value if item not in options]
    elif isinstance(value, str):
        missing = [value] if value not in options else []
    else:
        return [
            Problem(
                f"{group} takes the name of an option here",
                where=where,
                accepted=suggest("", options),
                remedy=f"set its values one by one, e.g. {group}.key=value",
            )
        ]
    if group in KINDS:
        return [unknown_component(group, name, options, where) for name in missing]
    return [
        Problem(f"unknown {group} {name!r}", where=where, accepted=suggest(name, options))
        for name in missing
    ]


def without(
    parsed: Sequence[Given], unknown: Collection[str], dirs: tuple[Path, ...]
) -> list[Given]:
    """The overrides outside the groups of `unknown`; a group whose last word is null is deleted.

    Hydra's grammar has no null for a group, only a deletion.
    """
    kept = [g for g in parsed if g.parsed.key_or_group.partition(".")[0] not in unknown]
    last = {given.parsed.key_or_group: given for given in kept}
    none = {key for key, given in last.items() if is_null_option(given, dirs)}
    return [
        _deletion(given) if given.parsed.key_or_group in none else given
        for given in kept
        if given.parsed.key_or_group in none or not is_null_option(given, dirs)
    ]


def is_null_option(given: Given, dirs: tuple[Path, ...]) -> bool:
    """Whether an override says that nothing is chosen of a group that components do not make up."""
    group = given.parsed.key_or_group
    absent = given.parsed.value() is None and not given.parsed.is_delete()
    return absent and group not in KINDS and bool(options_of(group, dirs))


def options_of(group: str, dirs: tuple[Path, ...]) -> set[str]:
    """The options of a group: its files in the conf folders, and the components of a kind."""
    if "." in group:
        return set()
    return {*variants(group, dirs), *(REGISTRY.names(group) if group in KINDS else ())}


def _deletion(given: Given) -> Given:
    """`~group` for `group=null`."""
    text = f"~{given.parsed.key_or_group}"
    return Given(text, read_override(text, given.source), given.source)
