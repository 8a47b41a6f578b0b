"""Overrides of a sweep file: texts in Hydra's grammar, each with the line it came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vexp.config.grammar import quoted
from vexp.config.scalars import LocatedMapping


@dataclass(frozen=True)
class Override:
    """One override, and where it was written."""

    text: str
    source: str


def as_overrides(
    tree: Mapping[str, Any], source: str, *, located: bool = False, note: str = ""
) -> tuple[Override, ...]:
    """Nested settings as overrides, one for each leaf, in order.

    A mapping with a `name` names a component: it becomes `key=name` and its other settings follow.
    With `located`, `source` is a file and each key's own line is added.
    """
    return tuple(_leaves(tree, "", source, 0, located, note))


def shown_value(value: Any) -> str:
    """A value as a user would write it; a component by its name, with what else is set."""
    if isinstance(value, Mapping):
        rest = [f"{key}={shown_value(item)}" for key, item in value.items() if key != "name"]
        named = [str(value["name"])] if "name" in value else []
        return " ".join([*named, *rest])
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list):
        return f"[{', '.join(map(shown_value, value))}]"
    return str(value)


def _leaves(
    tree: Mapping[str, Any], prefix: str, source: str, line: int, located: bool, note: str
) -> Iterator[Override]:
    for key, value in tree.items():
        at = tree.lines.get(key, line) if isinstance(tree, LocatedMapping) else line
        where = f"{source}:{at}{note}" if located else f"{source}{note}"
        path = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping) and value:
            rest = dict(value)
            if isinstance(value, LocatedMapping):
                rest = LocatedMapping()
                rest.update(value)
                rest.lines = value.lines
            if "name" in rest:
                yield Override(f"{path}={grammar(rest.pop('name'))}", where)
            yield from _leaves(rest, path, source, at, located, note)
        else:
            yield Override(f"{path}={grammar(value)}", where)


def grammar(value: Any) -> str:
    """A plain value as Hydra's override grammar writes it, so that it is read back the same."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{grammar(item)}" for key, item in value.items()) + "}"
    return "[" + ",".join(map(grammar, value)) + "]"
