"""The folder of an annotation: `<output>.partial` while it grows, one rename when it is whole.

<output>/  train.jsonl      the rows that have evidence, as `dataset: table` reads them
           evidence.jsonl   for every item: phrases, proposals, verdicts, why it was left out
           manifest.json    settings, counts, what was asked and what it cost
           provenance.json  code, packages, machine
           journal.jsonl    every answer; rerunning with other settings asks only what is new
           images/          of items whose image is in no file of its own
           source           a link to the folder of the data
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vexp.dataset.base import Dataset, Item
from vexp.endpoint.request import pixels_digest
from vexp.errors import ConfigError, Problem, RunError, StorageError
from vexp.files import fsync_folder, storage_errors, write_bytes
from vexp.runs.lock import try_lock

if TYPE_CHECKING:
    from PIL.Image import Image

JOURNAL, ROWS, EVIDENCE = "journal.jsonl", "train.jsonl", "evidence.jsonl"
MANIFEST, IMAGES, SOURCE, LOCK = "manifest.json", "images", "source", ".lock"


def partial_of(output: Path) -> Path:
    """Where an annotation grows."""
    return output.with_name(output.name + ".partial")


@contextlib.contextmanager
def growing(output: Path) -> Iterator[Path]:
    """The partial folder, for one process at a time.

    Raises:
        ConfigError: if `output` exists already.
        RunError: if another process works on it.
        StorageError: if the disk refuses, or has no locks.
    """
    if output.exists():
        remedy = "name a new folder, or delete this one first"
        raise ConfigError(Problem("the folder exists already", where=str(output), remedy=remedy))
    folder = partial_of(output)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("ab")
    with lock:
        locked = try_lock(lock.fileno())
        if locked is None:
            raise StorageError(
                "this file system has no locks, which keep two processes from one annotation",
                where=str(folder),
                remedy="name a folder on another file system",
            )
        if not locked:
            raise RunError(
                "another process works on this annotation",
                where=str(folder),
                remedy="wait for it, or stop it and run the same command",
            )
        yield folder


def publish(folder: Path, output: Path) -> None:
    """Make the partial folder the output, at once."""
    with storage_errors(output):
        (folder / LOCK).unlink(missing_ok=True)
        fsync_folder(folder)
        folder.rename(output)
        fsync_folder(output.parent)


def image_cell(dataset: Dataset, item: Item, index: int, folder: Path) -> str:
    """How a row refers to its image: an absolute path, or one in `folder`, where it is put."""
    from vexp.annotate.spec import SPLIT

    file = dataset.image_file(SPLIT, index)
    if file is not None:
        return str(file.absolute())
    assert item.image is not None
    name = f"{IMAGES}/{pixels_digest(item.image)}.png"
    if not (folder / name).exists():
        write_bytes(folder / name, _png(item.image))
    return name


def _png(image: Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
