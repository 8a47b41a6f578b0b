"""One reader of plain scalars, for YAML files and command-line overrides alike.

The rules are those of Hydra's override grammar: `1e-6` is a number, only `true` and `false` are
booleans (`off`, `yes` and `no` are words), `010` and `12:30:45` are text (YAML 1.1 would read an
octal and a sexagesimal number). A key that stands twice in one mapping is an error; `<<` merges
mappings, whose keys give way to those that stand beside it.

Every YAML file that a user may hand in is read here, within bounds of size, depth and aliases.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from vexp.errors import ConfigError, Problem

_INT = re.compile(r"[+-]?(?:0|[1-9](?:_?[0-9])*)$")
_FLOAT = re.compile(
    r"[+-]?(?:"
    r"(?:0|[1-9](?:_?[0-9])*)\.(?:[0-9](?:_?[0-9])*)?|\.[0-9](?:_?[0-9])*"
    r"|(?:(?:0|[1-9](?:_?[0-9])*)(?:\.(?:[0-9](?:_?[0-9])*)?)?|\.[0-9](?:_?[0-9])*)[eE][+-]?[0-9](?:_?[0-9])*"
    r")$"
)
_SPECIAL = re.compile(r"[+-]?(?:inf|nan)$", re.IGNORECASE)


def read_scalar(text: str) -> Any:
    """The value of one unquoted scalar: None, bool, int, float or str."""
    lowered = text.lower()
    if lowered in ("null", "true", "false"):
        return {"null": None, "true": True, "false": False}[lowered]
    if _INT.match(text):
        if len(text) > _MOST_DIGITS:
            raise ValueError(f"a number of {len(text):,} digits is not read")
        return int(text)
    if _FLOAT.match(text) or _SPECIAL.match(text):
        return float(text)
    return text


class LocatedMapping(dict[str, Any]):
    """A mapping that remembers the line (from 1) on which each key stands."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, int] = {}


_MOST_BYTES = 16 << 20  # of a file
_MOST_DEPTH = 100  # mappings and lists within each other
_MOST_REPEATED = 10_000  # values that aliases stand for
_MOST_DIGITS = 300  # of a whole number; a float has no more

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):  # type: ignore[misc]
    """Safe YAML with our scalars; no tags, so a file cannot name Python objects."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's own way to replace them)


def _plain(_loader: Any, node: yaml.ScalarNode) -> Any:
    if node.style:  # quoted and block scalars have one
        return node.value
    try:
        return None if node.value in ("", "~") else read_scalar(node.value)
    except ValueError as error:
        raise _refused(str(error), node.start_mark) from None


def _mapping(loader: Any, node: yaml.MappingNode) -> LocatedMapping:
    own, merged = LocatedMapping(), LocatedMapping()
    for key_node, value_node in node.value:
        if key_node.value == "<<" and not key_node.style:
            _merge(loader, value_node, merged)
            continue
        key = str(loader.construct_object(key_node, deep=True))
        if key in own:
            raise _refused(f"the key {key!r} stands twice in one mapping", key_node.start_mark)
        own[key] = loader.construct_object(value_node, deep=True)
        own.lines[key] = key_node.start_mark.line + 1
    for key in merged.keys() - own.keys():
        own[key], own.lines[key] = merged[key], merged.lines[key]
    return own if not merged else _in_order(own, merged)


def _merge(loader: Any, node: yaml.Node, into: LocatedMapping) -> None:
    """Add the keys that `<<` names: of one mapping, or of several, the first of which wins."""
    listed = node.value if isinstance(node, yaml.SequenceNode) else [node]
    for each in listed:
        given = loader.construct_object(each, deep=True)
        if not isinstance(given, LocatedMapping):
            what = "`<<` merges mappings: `<<: *anchor`, or `<<: [*first, *second]`"
            raise _refused(what, each.start_mark)
        for key, value in given.items():
            if key not in into:
                into[key], into.lines[key] = value, given.lines[key]


def _in_order(own: LocatedMapping, merged: LocatedMapping) -> LocatedMapping:
    """The keys of `merged` first, as they were declared, then those that stand beside it."""
    ordered = LocatedMapping()
    ordered.update({key: own[key] for key in (*merged, *own)})
    ordered.lines = own.lines
    return ordered


class _Refused(yaml.MarkedYAMLError):
    """What YAML allows and this reader does not."""


def _refused(what: str, mark: Any) -> _Refused:
    return _Refused(None, None, what, mark)


_Loader.add_constructor("tag:yaml.org,2002:str", _plain)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def _check_bounds(text: str) -> None:
    """Look at a file's events, which need no recursion, before its values are made.

    Raises:
        _Refused: for nesting deeper than anybody writes, and for aliases that stand for more values
            than anybody means.
    """
    sizes: dict[str | None, int] = {}  # of what anchors name, with what their aliases stand for
    around: list[tuple[int, str | None]] = []  # values before a mapping or list, and its anchor
    size = repeated = 0
    for event in yaml.parse(text, Loader=_SafeLoader):
        what = ""
        if isinstance(event, yaml.CollectionStartEvent):
            around.append((size, event.anchor))
            if len(around) > _MOST_DEPTH:
                what = f"this YAML is nested more than {_MOST_DEPTH} levels deep"
        elif isinstance(event, yaml.CollectionEndEvent):
            before, anchor = around.pop()
            sizes[anchor] = size - before
        elif isinstance(event, yaml.AliasEvent):
            again = sizes.get(event.anchor, 1)
            size, repeated = size + again, repeated + again
            if any(anchor == event.anchor for _, anchor in around):
                what = f"the alias *{event.anchor} stands within what it stands for"
            elif repeated > _MOST_REPEATED:
                what = f"the aliases of this file stand for more than {_MOST_REPEATED:,} values"
        if what:
            raise _refused(what, event.start_mark)
        size += isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)


def _read(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ConfigError(
            Problem(f"this file has more than {_MOST_BYTES >> 20} MiB", where=str(path))
        )
    return content.decode("utf-8")


def load_yaml(path: Path, *, text: str | None = None) -> LocatedMapping:
    """Read a YAML file whose top level is a mapping (an empty file is an empty mapping).

    Raises:
        ConfigError: names file and line for a file that cannot be read or parsed, a duplicate key,
            a tag, a top level that is no mapping, and what goes beyond the bounds.
    """
    try:
        text = _read(path) if text is None else text
        _check_bounds(text)
        found = yaml.load(text, Loader=_Loader)  # noqa: S506  (safe, see _Loader)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(Problem(f"cannot read {path}: {reason}")) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        what = what if isinstance(error, _Refused) else f"this is not valid YAML: {what}"
        raise ConfigError(Problem(what, where=where)) from error
    if found is None:
        return LocatedMapping()
    if not isinstance(found, LocatedMapping):
        raise ConfigError(
            Problem(f"expected `key: value` lines, found {type(found).__name__}", where=str(path))
        )
    return found
