"""Files from elsewhere: their size, encoding, JSON and names are checked before they are used."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import msgspec

from vexp.errors import Problem, RunError

T = TypeVar("T")

MAX_BYTES = 256 << 20  # of one file
MAX_DEPTH = 64  # of nested lists and objects
MAX_NAME = 200  # characters; with a key behind it, a name is still short enough for a folder
_BEFORE_UTF8 = b"\xef\xbb\xbf"  # Excel's "CSV UTF-8" begins with it
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SHOWN = 60  # characters of a value in a message


def text_of(path: Path, *, noun: str) -> str:
    """The text of a UTF-8 file, with or without a byte-order mark; line ends stay as they are.

    Raises:
        RunError: if it is too large, cannot be read or is not UTF-8.
    """
    try:
        if not path.is_file():
            _refuse(f"this {noun} is not a plain file", path, "name a file")
        size = path.stat().st_size
        content = path.read_bytes() if size <= MAX_BYTES else b""
    except OSError as error:
        _refuse(f"this {noun} cannot be read: {error.strerror or error}", path, "")
    if size > MAX_BYTES:
        what = f"this {noun} has {size:,} bytes, and at most {MAX_BYTES:,} are read"
        _refuse(what, path, "import it in parts")
    return decoded(content, path, noun=noun)


def decoded(content: bytes, where: object, *, noun: str) -> str:
    """UTF-8 as text, without a byte-order mark.

    Raises:
        RunError: if it is not UTF-8.
    """
    if content.startswith(_UTF16):
        _refuse(f"this {noun} is UTF-16", where, "save it as UTF-8")
    try:
        return content.removeprefix(_BEFORE_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"this {noun} is damaged: byte {error.start} is not UTF-8"
        _refuse(what, where, "write it again, or save it as UTF-8; nothing of it was taken")


def json_of(text: str | bytes) -> Any:
    """The content of a JSON text; NaN and Infinity are read as Python writes them.

    Raises:
        ValueError: if it is no JSON, is nested deeper than `MAX_DEPTH`, or has a number of too many
            digits or a text that is no Unicode.
    """
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if _is_deeper(content, MAX_DEPTH):
        raise ValueError("it is nested too deep")
    if _SURROGATE.search(text if isinstance(text, str) else text.decode("utf-8")):
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it has half of a surrogate pair, which is no text") from None
    return content


def plain(value: Any) -> Any:
    """Data that JSON can hold: numbers that are none become their names, other things texts."""
    return json.loads(json.dumps(value, default=str), parse_constant=str)


def _is_deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        nested = [each for each in level if isinstance(each, list | dict)]
        if not nested:
            return False
        level = [c for each in nested for c in (each.values() if type(each) is dict else each)]
    return True


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    r"""Lines of a JSONL text with their numbers, from 1; only \n ends one, blank ones are none."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


def shaped(content: Any, shape: type[T], what: str, where: object) -> T:
    """Plain data as the type that it has to have.

    Raises:
        RunError: naming the first field that is missing or of another type.
    """
    try:
        return msgspec.convert(content, shape)
    except (msgspec.ValidationError, RecursionError, OverflowError) as error:
        what = f"{what} is damaged: {_plain(error)}"
        _refuse(what, where, "write it again, or move it away; nothing of it was taken")


def _plain(error: Exception) -> str:
    """msgspec's sentence, with the place in words of JSON: `results.pope`."""
    text, _, place = str(error).partition(" - at `")
    place = place.rstrip("`").removeprefix("key in ").removeprefix("$").removeprefix(".")
    text = text[:1].lower() + text[1:].replace("`", "")
    return f"at {place}: {text}" if place else text


def safe_name(name: object, noun: str, where: object) -> str:
    """A name that can become part of a file's name and stays in its folder.

    Raises:
        RunError: if it is empty or too long, begins with a dot, or has a separator or a control
            character in it.
    """
    problem = name_problem(name, noun)
    if problem is not None:
        raise RunError(
            problem.what, where=str(where), accepted=problem.accepted, remedy=problem.remedy
        )
    return str(name)


def name_problem(name: object, noun: str) -> Problem | None:
    """The complaint about a name that `safe_name` refuses; None for any other, numbers included."""
    text = str(name) if type(name) in (str, int) else ""
    safe = text.strip() and len(text) <= MAX_NAME and text[0] not in ".~" and text.isprintable()
    if safe and not set(text) & set("/\\"):
        return None
    return Problem(
        f"{shown(name)} is not taken as the name of {noun}",
        accepted=f"up to {MAX_NAME} printable characters, without slashes, not beginning with a "
        "dot or ~",
        remedy="rename it in the file; nothing was imported",
    )


def shown(value: object) -> str:
    """A value from elsewhere as a message shows it: short, control characters spelled out."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _refuse(what: str, where: object, remedy: str) -> NoReturn:
    raise RunError(what, where=str(where), remedy=remedy)
