"""JSON of records: decoded and checked against its type in one pass; see `vexp.records`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from vexp import records
from vexp.errors import Damaged

T = TypeVar("T")
_RESTORE = "restore it from a backup"


def decoded(content: bytes, kind: type[T], path: Path | str) -> T:
    """The record in the bytes of the file at `path`.

    Raises:
        Damaged: as `read`.
    """
    decode, names, newest = _DECODERS.get(kind) or _decoder(kind)
    try:
        if not content.isascii():
            content.decode("utf-8")  # what is passed over in decoding has to be text, too
        for name in names:
            if content.count(name) > 1:
                _refuse_twins(content)
        found: Any = decode(content)
    except (ValueError, RecursionError, MemoryError) as error:
        _refuse_newer(_version(content), kind, path)
        raise _damaged(content, error, kind, path) from None
    if newest is not None and found.format > newest:
        _refuse_newer(found, kind, path)
    return cast("T", found)


def as_plain(content: bytes, kind: type[Any], path: Path | str) -> dict[str, Any]:
    """All that the file holds, fields that `kind` does not know among it, checked as by `decoded`.

    Raises:
        Damaged: as `read`.
    """
    decoded(content, kind, path)
    found: dict[str, Any] = msgspec.json.decode(content)
    return found


_Decoder = tuple[Callable[[bytes], Any], tuple[bytes, ...], int | None]
_DECODERS: dict[Any, _Decoder] = {}


def _decoder(kind: Any) -> _Decoder:
    """A type's decoder, the names that its files have to have, and its newest format."""
    fields = msgspec.structs.fields(kind) if hasattr(kind, "__struct_fields__") else ()
    names = tuple(f'"{field.encode_name}":'.encode() for field in fields if field.required)
    found = msgspec.json.Decoder(kind).decode, names, getattr(kind, "newest", None)
    _DECODERS[kind] = found
    return found


def _version(content: bytes) -> Any:
    """The format of a file that cannot be read as it should be; None if nobody knows."""
    try:
        return msgspec.json.decode(content, type=records.Versioned)
    except (ValueError, RecursionError, MemoryError):
        return None


def _refuse_newer(found: Any, kind: type[Any], path: Path | str) -> None:
    """Raises:
    Damaged: if a later vexp wrote the file.
    """
    newest = getattr(kind, "newest", 0)
    if newest and getattr(found, "format", 0) > newest:
        raise Damaged(
            f"{Path(path).name} was written by a newer vexp ({getattr(found, 'vexp', 'unknown')})",
            where=str(path),
            accepted=f"formats up to {newest}; this is format {found.format}",
            remedy="update vexp, or choose another results_dir",
            content=False,
        )


def _refuse_twins(content: bytes) -> None:
    """Raises:
    ValueError: if an object names one field twice: nobody knows which one counts.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twins = sorted({name for name, _ in pairs if [n for n, _ in pairs].count(name) > 1})
            raise ValueError(f"`{twins[0]}` is given twice")
        return found

    json.loads(content, object_pairs_hook=unique)


def _damaged(content: bytes, error: Exception, kind: type[Any], path: Path | str) -> Damaged:
    fault = _fault(content, error)
    return Damaged(
        f"{Path(path).name} is damaged: {fault}",
        where=str(path),
        remedy=getattr(kind, "remedy", _RESTORE),
        fault=fault,
    )


def _fault(content: bytes, error: Exception) -> str:
    """Why a record cannot be read, in words."""
    if isinstance(error, RecursionError | MemoryError):
        return "it is nested too deep or too large"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if not content.strip(b" \t\r\n"):
        return "it is empty"
    if not content.strip(b"\0"):
        return "it holds zeros only"
    fault, _, place = str(error).partition(" - at ")
    place = place.strip("`").removeprefix("$").removeprefix(".").replace("[...]", ".*")
    fault = fault if fault.startswith("JSON") else f"{fault[:1].lower()}{fault[1:]}"
    return fault + (f", at `{place}`" if place else "")
