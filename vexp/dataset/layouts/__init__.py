"""Datasets as they are published, read from a local folder and written as a table of vexp's own.

Each layout is one module here with a docstring (what has to lie in the folder, and where its boxes
come from) and a function `rows(folder)`. What comes out is a folder that `dataset: table` reads:
one JSONL file per split, boxes in pixels, tags, and `manifest.json`, which says what was left out.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from vexp.dataset.layouts._folder import Folder
from vexp.dataset.layouts._row import DatasetRow, LeftOut
from vexp.dataset.layouts._write import Written, write
from vexp.errors import ConfigError, Problem, suggest

Images = Literal["link", "copy"]


def names() -> list[str]:
    """The layouts that can be read."""
    files = Path(__file__).parent.glob("*.py")
    return sorted(path.stem for path in files if not path.stem.startswith("_"))


def describe(name: str) -> str:
    """What a layout consists of."""
    return inspect.getdoc(importlib.import_module(f"{__name__}.{name}")) or ""


def convert(
    name: str, source: Path, target: Path, *, limit: int | None = None, images: Images = "link"
) -> Written:
    """Write the dataset in the folder `source` as a table in the new folder `target`.

    `limit` keeps that many rows of each split, chosen by a hash of their ids. Image files are
    reached through a link named `source`, or copied; images within Parquet files become files.

    Raises:
        ConfigError: for a layout that is not known, or a folder that cannot be used.
        DataError: if a file or a column is missing, or no row can be used.
        StorageError: if the disk refuses.
    """
    if name not in names():
        accepted = suggest(name, names())
        raise ConfigError(Problem(f"there is no layout {name!r}", accepted=accepted))
    if target.exists():
        remedy = "name a new folder, or delete this one first"
        raise ConfigError(Problem("the folder exists already", where=str(target), remedy=remedy))
    folder = Folder(name, source)
    module = importlib.import_module(f"{__name__}.{name}")
    rows: Callable[[Folder], Iterator[DatasetRow | LeftOut]] = module.rows
    return write(name, rows(folder), folder.path, target, limit=limit, images=images)
