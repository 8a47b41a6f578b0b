"""Paths: those that a user writes, and where the files that ship with vexp are."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from vexp.errors import Problem

_LONGEST = 255  # bytes of a name, on every common file system
_VARIABLE = re.compile(r"\$\{?[A-Za-z_]")
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


def path_problem(path: str) -> Problem | None:
    """What is wrong with a path that shall be written to, with `~` expanded, if anything is."""
    if path.startswith("~"):
        return Problem(
            f"there is no home folder {path.partition('/')[0]!r}",
            accepted="~ is your own, ~name that of a user; ./~name a folder of this name",
        )
    if _VARIABLE.search(path):
        return Problem(
            f"{path!r} has a variable, and nothing is put in its place",
            accepted="the folder itself",
            remedy='or the command line, where the shell does it: "results_dir=$SCRATCH/x"',
        )
    if "\0" in path or any(len(os.fsencode(part)) > _LONGEST for part in Path(path).parts):
        what = f"no folder can have this name: a part has more than {_LONGEST} bytes"
        return Problem("a path has no NUL" if "\0" in path else what)
    return None


def is_file(path: Path) -> bool:
    """Whether a file is at this path, `~` expanded; false for what no path can be, too."""
    try:
        return expanded(path).is_file()
    except (OSError, ValueError):
        return False
