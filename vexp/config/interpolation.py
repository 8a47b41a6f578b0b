r"""`${a.key}`: a value that refers to another key of the same config; `\${` is the text `${`.

As in OmegaConf, backslashes count before `${` only: two of them are one, before a reference.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from vexp.config.schema import Path as Key
from vexp.errors import ConfigError, Problem

_SINGLE = re.compile(r"\$\{([^{}]*)\}")  # a value that is a reference and nothing else
_MARK = re.compile(r"(\\*)\$\{(?:([^{}]*)\})?")

_LITERAL = r"for the text itself write `\${`, in files and on the command line"

_ENVIRONMENT = "variables of the environment are not read here: write what it stands for"


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
    single = _SINGLE.fullmatch(value)
    if single:
        found = _lookup(single[1], root, value, where(key))
        return interpolated(found, root, key, where, depth + 1)

    def replaced(mark: re.Match[str]) -> str:
        slashes, name = mark[1], mark[2]
        if len(slashes) % 2:
            return slashes[: len(slashes) // 2] + mark[0][len(slashes) :]
        if name is None:
            return mark[0]
        found = _lookup(name, root, value, where(key))
        return slashes[: len(slashes) // 2] + str(interpolated(found, root, key, where, depth + 1))

    return _MARK.sub(replaced, value)


def referred(value: Any) -> Iterator[str]:
    """The top-level keys that a value refers to."""
    for text in _texts(value):
        for mark in _MARK.finditer(text):
            if mark[2] is not None and len(mark[1]) % 2 == 0:
                yield mark[2].partition(".")[0]


def is_marked(value: Any) -> bool:
    """Whether a value holds a reference, or the escape of one."""
    return any("${" in text for text in _texts(value))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def _lookup(reference: str, root: Mapping[str, Any], value: str, where: str) -> Any:
    if not re.fullmatch(r"[A-Za-z0-9_.]+", reference):
        raise ConfigError(
            Problem(
                f"{value!r} is not accepted: only ${{a.key}} of this config can be referred to",
                where=where,
                accepted=_LITERAL,
                remedy="resolvers are off; secrets come from the environment of the process",
            )
        )
    try:
        return value_of(reference, root)
    except KeyError:
        what = f"{value!r} refers to a key that is not set"
        remedy = _ENVIRONMENT if re.fullmatch(r"[A-Z_][A-Z0-9_]*", reference) else _LITERAL
        raise ConfigError(Problem(what, where=where, remedy=remedy)) from None


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
    from vexp.spec.run import RunSpec

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
