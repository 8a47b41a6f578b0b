"""Names of files and folders that are made from what a user wrote."""

from __future__ import annotations

import hashlib
import re

# Bytes of a name. File systems take 255; what lies beside a file of this name adds suffixes.
LONGEST = 200
_READABLE = 80  # of a name that is cut, before its hash

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=,@-]*")
_HASHED = re.compile(r"-[0-9a-f]{8}")


def file_name(text: str) -> str:
    """`text` if it can name a file, else what is readable of it with a hash: never that of another.

    A text that ends like such a hash gets one of its own.
    """
    plain = _PLAIN.fullmatch(text) and len(text) <= LONGEST and not _HASHED.search(text[-9:])
    return text if plain else hashed_name(text, text)


def hashed_name(text: str, content: str) -> str:
    """What is readable of `text`, cut, and eight hex digits of a hash of `content`."""
    digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    shown = readable(text, _READABLE)
    return f"{shown}-{digest}" if shown else digest


def readable(text: str, longest: int = LONGEST) -> str:
    """The letters (of ASCII), digits and signs of `text` that every file system takes."""
    return re.sub(r"[^A-Za-z0-9._+=,@-]+", "_", text).lstrip("_-.+=,@")[:longest].rstrip("_-.+=,@")
