"""`${a.key}`: a value that refers to another key of the same config."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from vexp.config.schema import Path as Key
from vexp.errors import ConfigError, Problem

_REFERENCE = re.compile(r"\$\{([^{}]*)\}")


def interpolated(
    value: Any, root: Mapping[str, Any], key: Key, where: Callable[[Key], str], depth: int = 0
) -> Any:
    """`value` with every reference to a key of `root` replaced; a whole-string one keeps its type.

    Raises:
        ConfigError: for a key that is not set, a reference to itself, and anything but a plain key.
    """
    if isinstance(value, Mapping):
        return {k: interpolated(v, root, (*key, k), where, depth) for k, v in value.items()}
    if isinstance(value, list):
        return [interpolated(v, root, (*key, str(i)), where, depth) for i, v in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value
    if depth > 20:
        raise ConfigError(Problem(f"{value!r} refers to itself", where=where(key)))
    whole = _REFERENCE.fullmatch(value)
    if whole:
        found = _lookup(whole[1], root, value, where(key))
        return interpolated(found, root, key, where, depth + 1)
    return _REFERENCE.sub(
        lambda match: str(
            interpolated(_lookup(match[1], root, value, where(key)), root, key, where, depth + 1)
        ),
        value,
    )


def referred(value: Any) -> Iterator[str]:
    """The top-level keys that a value refers to."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from referred(item)
    elif isinstance(value, list):
        for item in value:
            yield from referred(item)
    elif isinstance(value, str):
        yield from (name.partition(".")[0] for name in _REFERENCE.findall(value))


def _lookup(reference: str, root: Mapping[str, Any], value: str, where: str) -> Any:
    if not re.fullmatch(r"[A-Za-z0-9_.]+", reference):
        raise ConfigError(
            Problem(
                f"{value!r} is not accepted: only ${{a.key}} of this config can be referred to",
                where=where,
                remedy="resolvers are off; secrets come from the environment of the process",
            )
        )
    try:
        return value_of(reference, root)
    except KeyError:
        what = f"{value!r} refers to a key that is not set"
        raise ConfigError(Problem(what, where=where)) from None


def value_of(key: str, root: Mapping[str, Any]) -> Any:
    """The value at a dotted key of a composed config, or the default of a key that is not set.

    Raises:
        KeyError: if it is neither set nor a key of the schema.
    """
    node: Any = root
    for part in key.split("."):
        node = node.get(part, _MISSING) if isinstance(node, Mapping) else _MISSING
    if node is _MISSING:
        node = _schema_default(key)
    if node is _MISSING:
        raise KeyError(key)
    return node


_MISSING = object()


def _schema_default(reference: str) -> Any:
    """The class default of a top-level key or of a key in a plain section."""
    from vexp.spec import RunSpec

    node: Any = RunSpec
    for part in reference.split("."):
        fields = (
            {f.name: f for f in dataclasses.fields(node)} if dataclasses.is_dataclass(node) else {}
        )
        if part not in fields:
            return _MISSING
        chosen = fields[part]
        if chosen.default is chosen.default_factory:  # neither: it has to be set
            return _MISSING
        node = (
            chosen.default
            if chosen.default is not dataclasses.MISSING
            else cast("Any", chosen.default_factory)()
        )
    return node
