"""Random numbers as pure functions of what they are for.

Every number is keyed by (seed, purpose, step, item id, index in group) and never by batch, rank or
order. That is what makes "killed and resumed" equal "never interrupted", and two processes equal
one. The generator is Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011):
a key per row, and the token's position as its counter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def derive(seed: int, *parts: str | int) -> int:
    """A seed of its own for each purpose, in [0, 2**63).

    Equal arguments give equal seeds on every machine; `1` and `"1"` are different parts.
    """
    return int.from_bytes(_digest(seed, *parts)[:8], "little") >> 1


def uniforms(
    seed: int,
    purpose: str,
    step: int,
    item_ids: Sequence[str],
    index_in_group: Sequence[int],
    count: int,
) -> NDArray[np.float64]:  # [row, count]
    """Uniform numbers in [0, 1) for the rows of a batch; column t belongs to token t.

    Row r depends on its own `item_ids[r]` and `index_in_group[r]` only, and its first numbers do
    not depend on `count`.

    Raises:
        ValueError: if the two lists differ in length.
    """
    if len(item_ids) != len(index_in_group):
        raise ValueError(f"{len(item_ids)} item ids, but {len(index_in_group)} places in a group")
    philox = np.random.Philox(key=0)
    generator = np.random.Generator(philox)
    # Setting the key of one generator is ten times faster than building one per row.
    fresh: Any = philox.state
    rows = np.empty((len(item_ids), count), dtype=np.float64)
    for row, item_id, index in zip(rows, item_ids, index_in_group, strict=True):
        digest = _digest(seed, purpose, step, item_id, index)
        fresh["state"]["key"] = np.frombuffer(digest, dtype="<u8").astype(np.uint64)
        philox.state = fresh
        generator.random(out=row)
    return rows


def _digest(*parts: str | int) -> bytes:
    """16 bytes; each part goes in with its type and length, so that no two lists look alike."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        content = str(part).encode("utf-8", "surrogatepass")
        digest.update(b"%c%d:" % (b"s" if isinstance(part, str) else b"i", len(content)))
        digest.update(content)
    return digest.digest()
