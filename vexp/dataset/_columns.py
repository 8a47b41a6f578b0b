"""Columns that look meant and are not read: by their name, and for images by what they hold."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

from vexp.dataset._images import looks_encoded
from vexp.dataset._rows import Stamp, open_rows
from vexp.dataset._splits import split_called

LOOKED_AT = 16  # rows whose cells are looked at
# Names that other tables use, in small letters without signs between words.
_NAMES = {
    "image": "images img imgs imagepath imagepaths imagefile imagefiles imagefilename imagename "
    "imgpath imgfile imgid imageid imageids imageurl imgurl picture pictures pic photo figure "
    "screenshot decodedimage imagebytes",
    "question": "problem query prompt instruction input text questions questiontext",
    "answer": "solution label labels gold groundtruth gt answers target output correctanswer "
    "answerlabel finalanswer answervalue",
    "boxes": "bbox bboxes box boundingbox boundingboxes gtbox gtboxes gtbbox gtbboxes regions "
    "evidence evidenceboxes focusareasbbox bboxs",
    "tag": "tags evidencetype",
    "demonstration": "demonstrations response responses solution rationale cot reasoning "
    "completion completions demo",
    "id_column": "ids uid uuid qid questionid sampleid itemid",
    "split_column": "split splits subset partition",
}
_IMAGE_FILES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
_SOURCES = re.compile(r"path|file|name|url|link|id$", re.IGNORECASE)


def alike(field: str, columns: Iterable[str], read: Collection[str | None]) -> list[str]:
    """Columns that are not read and by their name could be meant for a field of the table."""
    names = {field.removesuffix("_column"), *_NAMES[field].split()}
    return [name for name in columns if name not in read and _plain(name) in names]


@functools.lru_cache(maxsize=64)
def images_unread(stamp: Stamp, read: tuple[str | None, ...]) -> tuple[str, ...]:
    """Columns that are not read and hold images, or paths to them, in most of the first rows."""
    rows = open_rows(stamp)
    columns = [name for name in rows.columns if name not in read]
    head = rows.head(LOOKED_AT, columns) if columns else []
    named = set(alike("image", columns, read))
    return tuple(
        name
        for name in columns
        if _are_images([cell for row in head if (cell := _one(row[name]))], named=name in named)
    )


def further_images(stamp: Stamp, read: tuple[str | None, ...]) -> list[str]:
    """Of these, the ones that are no second name of the image which is read."""
    return [name for name in images_unread(stamp, read) if not _SOURCES.search(name)]


def held_out_words(stamp: Stamp, column: str) -> int:
    """Rows of a column that name a split other than training."""
    words = (split_called(word) for word in open_rows(stamp).column(column))
    return sum(word not in (None, "train") for word in words)


def filled(stamp: Stamp, column: str) -> bool:
    """True where one of the first rows has something in a column."""
    return any(_one(row[column]) for row in open_rows(stamp).head(LOOKED_AT, [column]))


def _are_images(cells: Sequence[Any], *, named: bool) -> bool:
    alike = sum(_is_image(cell, named=named) for cell in cells)
    return alike > len(cells) / 2


def _is_image(cell: Any, *, named: bool) -> bool:
    if isinstance(cell, bytes | bytearray):
        return True
    if isinstance(cell, dict):
        return bool(cell.get("bytes") or cell.get("path"))
    if isinstance(cell, int) and not isinstance(cell, bool):
        return named
    return isinstance(cell, str) and (named or looks_encoded(cell) or _is_image_path(cell))


def _is_image_path(text: str) -> bool:
    short = len(text) < 1000 and "\n" not in text
    return short and PurePosixPath(text).suffix.lower() in _IMAGE_FILES


def _one(cell: Any) -> Any:
    """The first of a list; None for what is empty."""
    if isinstance(cell, list | tuple):
        cell = cell[0] if cell else None
    return None if cell is None or cell != cell or cell in ("", b"") else cell


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())
