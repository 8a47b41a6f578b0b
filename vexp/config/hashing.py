"""The plain form of values, and its hash: what run ids and evaluation keys rest on."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Hashable, Mapping
from typing import Annotated, Any, cast, get_args, get_origin

from vexp.config.schema import field_types
from vexp.config.types import Neutral, Unhashed
from vexp.registry import Component

# Raised when the way of hashing changes; every id changes with it (tests/spec/golden_ids.json).
IDENTITY_VERSION = 1
HASH_LENGTH = 12  # hex digits
_VERSION = str(IDENTITY_VERSION)
_JSON = json.JSONEncoder(sort_keys=True, ensure_ascii=True, allow_nan=False)


def plain(value: Any) -> Any:
    """The hashed form of a value: fields that cannot change the weights are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def _fields(value: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if isinstance(value, Component):
        fields["name"] = value.name
        if content := value.content():
            fields["content"] = plain(content)
    for name, neutral in _hashed_fields(type(value)):  # type: ignore[arg-type]
        item = getattr(value, name)
        if not any(mark.value == item for mark in neutral):
            fields[name] = plain(item)
    return fields


@functools.cache
def _hashed_fields(cls: Hashable) -> tuple[tuple[str, tuple[Neutral, ...]], ...]:
    """Fields that can change the weights, each with the values at which it is left out."""
    fields = []
    for name, hint in field_types(cast("type", cls)).items():
        marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
        if not any(isinstance(mark, Unhashed) for mark in marks):
            fields.append((name, tuple(mark for mark in marks if isinstance(mark, Neutral))))
    return tuple(fields)


def digest(inputs: Mapping[str, Any]) -> str:
    """Hash of plain data; 1, 1.0, true and "1" all differ, the order of keys does not matter."""
    return hash_of({key: written(value) for key, value in inputs.items()})


def hash_of(texts: Mapping[str, str]) -> str:
    """Hash of an object whose values are JSON already; see `digest`."""
    parts = {"identity": _VERSION, **texts}
    content = ", ".join([key + parts[name] for name, key in _sorted_keys(tuple(parts))])
    return hashlib.sha256(f"{{{content}}}".encode()).hexdigest()[:HASH_LENGTH]


@functools.cache
def _sorted_keys(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """The names of an object's keys in the order of JSON, each with how it is written there."""
    return [(name, f"{_JSON.encode(name)}: ") for name in sorted(names)]


def written(form: Any) -> str:
    """Plain data as JSON, equal for equal data."""
    return _JSON.encode(form)
