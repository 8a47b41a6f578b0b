"""The handwritten digits of scikit-learn (UCI "Optical Recognition of Handwritten Digits").

1,797 glyphs of 8x8 pixels by 13 writers, split once and for all by glyph: no glyph of a held-out
split is ever seen in training, whatever the seed.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vexp.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vexp.dataset.base import Split

SHA256 = "68aea062d35a127749050fa0e52dca09d6569ac08092c925610e0954e172dde2"  # of the table
HELD_OUT = 0.15  # share of each digit's glyphs in dev, and again in test


@functools.cache
def table() -> NDArray[np.uint8]:  # [glyph, 65]: 64 intensities from 0 to 16, then the digit
    """All glyphs in scikit-learn's order, loaded once per process.

    Raises:
        DataError: if scikit-learn is missing or ships other digits.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise DataError(
            "the handwritten digits are missing: scikit-learn is not installed",
            where="dataset digits_vqa",
            remedy="pip install scikit-learn",
        )
    # Importing scikit-learn takes seconds; its data file is all that is needed.
    file = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if file.is_file():
        with gzip.open(file, "rt") as lines:
            found = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    else:
        found = _from_scikit_learn()
    if hashlib.sha256(found.tobytes()).hexdigest() != SHA256:
        raise DataError(
            "scikit-learn's handwritten digits are not the ones this dataset is defined by",
            where=str(file),
            remedy="install a released version of scikit-learn (1.5 to 1.9 are known to fit)",
        )
    return found


def _from_scikit_learn() -> NDArray[np.uint8]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.column_stack([digits.data, digits.target]).astype(np.uint8)


@functools.cache
def of_digit(split: Split, digit: int) -> tuple[int, ...]:
    """Indices of the glyphs of one digit that belong to a split."""
    rows = np.flatnonzero(table()[:, 64] == digit).tolist()
    rows.sort(key=lambda row: hashlib.blake2b(b"glyph %d" % row).digest())
    held_out = round(HELD_OUT * len(rows))
    parts = {
        "test": rows[:held_out],
        "dev": rows[held_out : 2 * held_out],
        "train": rows[2 * held_out :],
    }
    return tuple(parts[split])


def pixels(glyph: int) -> NDArray[np.uint8]:  # [8, 8], 0 to 255
    """Ink of one glyph, from 0 (none) to 255."""
    ink = table()[glyph, :64].astype(np.uint16) * 255 // 16
    return ink.astype(np.uint8).reshape(8, 8)
