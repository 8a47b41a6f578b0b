"""Where the files that ship with vexp are: in the package of a wheel, beside it in a checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

_PACKAGE = Path(__file__).resolve().parent


def shipped(name: Literal["conf", "sweeps", "reference"]) -> Path:
    """The shipped folder `conf`, `sweeps`, or `reference`: the published tables."""
    installed = _PACKAGE / "_shipped" / name
    if installed.is_dir():
        return installed
    return _PACKAGE.parent / ("results/reference" if name == "reference" else name)
