"""A row of a table in the making, and one that is left out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vexp.dataset._boxes import BoxFormat
from vexp.dataset._cells import integer, narrowed
from vexp.dataset.base import Split

_PLACEHOLDER = "<image>"
_MATH = ("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """One question; `image` is a file, the bytes of one, or None."""

    split: Split
    id: str
    question: str
    answer: str
    image: Path | bytes | None
    boxes: Sequence[Sequence[float]] = ()  # x1, y1, x2, y2
    box_format: BoxFormat = "xyxy_px"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A row that cannot be used, with a reason that is the same for all of its kind."""

    id: str
    reason: str


def with_image(
    split: Split,
    item: str,
    question: Any,
    answer: str,
    cell: Any,
    *folders: Path,
    boxes: Sequence[Sequence[float]] = (),
    may_lack: bool = False,
) -> DatasetRow | LeftOut:
    """The row of a question about the one image of a cell (see `pictures`).

    `may_lack` is for datasets that also have questions without an image.
    """
    images, asked = pictures(cell, *folders), plain(question)
    placeholders = str(question or "").count(_PLACEHOLDER)
    if len(images) > 1:
        return LeftOut(item, "it has several images")
    if not images and (placeholders or not may_lack):
        return LeftOut(item, "it has no image")
    if placeholders > 1:
        return LeftOut(item, "its question has placeholders that stand for no image")
    return DatasetRow(split, item, asked, answer, images[0] if images else None, boxes)


def pictures(cell: Any, *folders: Path) -> list[Path | bytes]:
    """The images of a cell: bytes, a path, a {bytes, path} structure, or a list of these.

    A path is relative to the first of the folders in which its file is; to the first of all if it
    is in none.
    """
    if isinstance(cell, list | tuple):
        return [image for part in cell for image in pictures(part, *folders)]
    if isinstance(cell, dict):
        return pictures(cell.get("bytes") or cell.get("path"), *folders)
    if cell in (None, "", b""):
        return []
    if isinstance(cell, str):
        places = [folder / cell for folder in folders]
        return [next((place for place in places if place.is_file()), places[0])]
    if not isinstance(cell, bytes):
        raise TypeError(f"an image is a {type(cell).__name__}")
    return [cell]


def plain(question: Any) -> str:
    """A question without the placeholders that stand for its image."""
    return str(question or "").replace(_PLACEHOLDER, "").strip()


def unboxed(answer: Any) -> str:
    r"""An answer without the \boxed{} around all of it, and without the $ around that."""
    text = spoken(answer)
    inner = text.removesuffix(".")
    for opening, closing in _MATH:
        if inner.startswith(opening) and inner.endswith(closing) and len(inner) > len(opening):
            inner = inner[len(opening) : -len(closing)].strip()
    box = _BOX.match(inner)
    if box is None or not inner.endswith("}"):
        return text
    inner = inner[box.end() : -1]
    depth = 0
    for sign in inner:
        depth += (sign == "{") - (sign == "}")
        if depth < 0:
            return text  # the first brace closes before the end
    return inner.strip()


def spoken(answer: Any) -> str:
    """True and false as yes and no; a whole float as an integer; everything else as text."""
    if isinstance(answer, bool):
        return "yes" if answer else "no"
    if isinstance(answer, float):
        return "" if answer != answer else integer(answer) or narrowed(answer) or str(answer)
    return str(answer if answer is not None else "").strip()
