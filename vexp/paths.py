"""Paths: those that a user writes, and where the files that ship with vexp are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

_PACKAGE = Path(__file__).resolve().parent


def shipped(name: Literal["conf", "sweeps", "reference"]) -> Path:
    """The shipped folder `conf`, `sweeps`, or `reference`: the published tables."""
    installed = _PACKAGE / "_shipped" / name
    if installed.is_dir():
        return installed
    return _PACKAGE.parent / ("results/reference" if name == "reference" else name)


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path that a user wrote, with `~` and `~name` as the home folders that they stand for.

    Variables are a shell's: `$SCRATCH` is a name like any other here.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111  (which knows no home: leaves `~name`)


def is_file(path: Path) -> bool:
    """Whether a file is at this path, `~` expanded; false for what no path can be, too."""
    try:
        return expanded(path).is_file()
    except (OSError, ValueError):
        return False
