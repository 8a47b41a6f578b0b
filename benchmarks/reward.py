"""The reward of the step benchmark: trivial, equal on both sides, varied within a group."""

from __future__ import annotations

import zlib


def content_score(text: str) -> float:
    """A number in [0, 1) that depends on nothing but the text of a response."""
    return zlib.crc32(text.encode()) % 1000 / 1000
