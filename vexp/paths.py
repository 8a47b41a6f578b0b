"""Where the files that ship with vexp are: in the package of a wheel, beside it in a checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

_PACKAGE = Path(__file__).resolve().parent


def shipped(name: Literal["conf", "sweeps"]) -> Path:
    """The shipped folder `conf` or `sweeps`."""
    installed = _PACKAGE / "_shipped" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name
