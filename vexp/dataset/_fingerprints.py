"""Images of a table by their content: what a run's id covers, and which rows share an image."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from vexp.dataset._images import BadImage, Source, fingerprint, source
from vexp.dataset._rows import Stamp, open_rows


@functools.lru_cache(maxsize=64)
def files_of(stamp: Stamp, column: str) -> Mapping[int, str]:
    """Fingerprints of the image files that a column names, by row; each file is read once."""
    prints: dict[Path, str] = {}
    named: dict[int, str] = {}
    for number, image in _images(stamp, column):
        if image.file is not None:
            if image.file not in prints:
                prints[image.file] = fingerprint(image)
            named[number] = prints[image.file]
    return named


@functools.lru_cache(maxsize=8)
def content_of(stamp: Stamp, column: str) -> Mapping[int, str]:
    """Fingerprints of all images of a column by row, also of those within the table's file."""
    inside = {
        number: fingerprint(image) for number, image in _images(stamp, column) if image.file is None
    }
    files = files_of(stamp, column)
    return {**files, **inside} if inside else files


def digest(stamp: Stamp, column: str) -> str:
    """Hash of the image files that a column names, in the order of its rows."""
    whole = hashlib.blake2b(digest_size=16)
    for print_ in files_of(stamp, column).values():
        whole.update(print_.encode())
    return whole.hexdigest()


def _images(stamp: Stamp, column: str) -> Iterator[tuple[int, Source]]:
    rows = open_rows(stamp)
    if column not in rows.columns:
        return
    for number, cell in enumerate(rows.column(column)):
        try:
            image = source(cell, stamp.path.parent)
        except BadImage:  # named by the data check; the file's hash covers the cell
            continue
        if image is not None:
            yield number, image
