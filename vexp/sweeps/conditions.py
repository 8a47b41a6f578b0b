"""Conditions of a sweep file: `{key: value, other: [one, or another]}` on its points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

ABSENT = "–"  # what an axis shows for points to which it does not apply


@dataclass(frozen=True)
class Condition:
    """Holds for points that have one of the accepted values at every key; empty, for all."""

    accepted: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)  # key -> where it was written

    @classmethod
    def of(cls, tree: Mapping[str, Any], sources: Mapping[str, str]) -> Condition:
        """From the file's form, in which a list means any of its values."""
        accepted = {k: tuple(v) if isinstance(v, list) else (v,) for k, v in tree.items()}
        return cls(accepted, sources)

    def holds(self, value_at: Callable[[str, str], Any]) -> bool:
        """Whether it holds, where `value_at(key, source)` is the point's value."""
        return all(
            _is_one_of(value_at(key, self.sources.get(key, "")), values)
            for key, values in self.accepted.items()
        )


def same(value: Any, wanted: Any) -> bool:
    """Whether a value is the wanted one; a component is also known by its name alone."""
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    if isinstance(value, Mapping) and not isinstance(wanted, Mapping):
        value = value.get("name")
    return bool(value == wanted)


def _is_one_of(value: Any, accepted: tuple[Any, ...]) -> bool:
    if value == list(accepted):  # a key whose value is that very list
        return True
    return any(same(value, wanted) for wanted in accepted)
