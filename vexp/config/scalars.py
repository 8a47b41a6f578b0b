"""One reader of plain scalars, for YAML files and command-line overrides alike.

The rules are those of Hydra's override grammar: `1e-6` is a number, only `true` and `false` are
booleans (`off`, `yes` and `no` are words), `010` and `12:30:45` are text (YAML 1.1 would read an
octal and a sexagesimal number). A key that stands twice in one mapping is an error.
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
        return int(text)
    if _FLOAT.match(text) or _SPECIAL.match(text):
        return float(text)
    return text


class Located(dict[str, Any]):
    """A mapping that remembers the line (from 1) on which each key stands."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, int] = {}


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):  # type: ignore[misc]
    """Safe YAML with our scalars; no tags, so a file cannot name Python objects."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's own way to replace them)


def _plain(_loader: Any, node: yaml.ScalarNode) -> Any:
    if not node.style:  # plain; quoted and block scalars have one
        return None if node.value in ("", "~") else read_scalar(node.value)
    return node.value


def _mapping(loader: Any, node: yaml.MappingNode) -> Located:
    found = Located()
    for key_node, value_node in node.value:
        key = str(loader.construct_object(key_node, deep=True))
        if key in found:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} stands twice in one mapping", key_node.start_mark
            )
        found[key] = loader.construct_object(value_node, deep=True)
        found.lines[key] = key_node.start_mark.line + 1
    return found


_Loader.add_constructor("tag:yaml.org,2002:str", _plain)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def load_yaml(path: Path, *, text: str | None = None) -> Located:
    """Read a YAML file whose top level is a mapping (an empty file is an empty mapping).

    Raises:
        ConfigError: names file and line for a file that cannot be read or parsed, a duplicate key,
            a tag, or a top level that is no mapping.
    """
    try:
        found = yaml.load(path.read_text("utf-8") if text is None else text, Loader=_Loader)  # noqa: S506  (safe, see _Loader)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(Problem(f"cannot read {path}: {reason}")) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(Problem(f"this is not valid YAML: {what}", where=where)) from error
    if found is None:
        return Located()
    if not isinstance(found, Located):
        raise ConfigError(
            Problem(f"expected `key: value` lines, found {type(found).__name__}", where=str(path))
        )
    return found
