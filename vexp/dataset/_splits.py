"""Which rows of a table belong to which split, and under which ids."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vexp.dataset._fingerprints import content_of
from vexp.dataset._rows import Rows, Stamp, open_rows
from vexp.dataset.base import Split

SPLITS: tuple[Split, ...] = ("train", "dev", "test")
# Other words that tables use.
_SPELLINGS: dict[str, Split] = {
    "training": "train",
    "validation": "dev",
    "valid": "dev",
    "val": "dev",
}


@dataclass(frozen=True)
class RowLocation:
    """A row of a file, and the id of its item."""

    stamp: Stamp
    number: int
    id: str

    @property
    def rows(self) -> Rows:
        return open_rows(self.stamp)

    def __str__(self) -> str:
        return self.rows.where(self.number)


@dataclass(frozen=True)
class Rule:
    """How rows are shared out. Splits with a file of their own get nothing of the main file."""

    main: Stamp
    own_files: tuple[tuple[Split, Stamp], ...]
    id_column: str
    split_column: str | None
    shares: tuple[tuple[Split, float], ...]  # of dev and test, by hash, without a split column
    image_column: str | None = None  # whose images the hash is of; None: the ids


@functools.lru_cache(maxsize=32)
def share_out(rule: Rule) -> Mapping[Split, Sequence[RowLocation]]:
    """The places of each split, in file order.

    Raises:
        DataError: if a file cannot be read.
    """
    found: dict[Split, list[RowLocation]] = {split: [] for split in SPLITS}
    own = dict(rule.own_files)
    images = content_of(rule.main, rule.image_column) if rule.image_column else {}
    for place, word in zip(_places(rule.main, rule.id_column), _words(rule), strict=True):
        hashed = images.get(place.number, place.id)
        split = split_called(word) if rule.split_column else _by_hash(hashed, rule.shares)
        if split is not None and split not in own:
            found[split].append(place)
    for split, stamp in own.items():
        found[split] = _places(stamp, rule.id_column, prefix=f"{split}/")
    return found


def split_called(word: Any) -> Split | None:
    """The split that a word of the split column means, if it means one."""
    spelled = str(word).strip().casefold()
    spelled = _SPELLINGS.get(spelled, spelled)
    return next((split for split in SPLITS if split == spelled), None)


def _words(rule: Rule) -> Sequence[Any]:
    rows = open_rows(rule.main)
    return rows.column(rule.split_column) if rule.split_column else [None] * len(rows)


def _places(stamp: Stamp, id_column: str, prefix: str = "") -> list[RowLocation]:
    rows = open_rows(stamp)
    given = rows.column(id_column) if id_column in rows.columns else [None] * len(rows)
    return [
        RowLocation(stamp, number, f"{prefix}{number:06d}" if name is None else str(name))
        for number, name in enumerate(given)
    ]


def _by_hash(key: str, shares: tuple[tuple[Split, float], ...]) -> Split:
    """The split of an id or an image: the same whatever the other rows are."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    place = int.from_bytes(digest, "little") / 2.0**64
    for split, share in shares:
        if place < share:
            return split
        place -= share
    return "train"
