"""Which kind of word each token of a response belongs to. Pure text, for any tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence

KINDS = ("digit", "color_place", "connective")

COLORS = (
    "red green blue yellow orange purple black white gray grey pink brown cyan magenta violet gold"
)
PLACES = (
    "top bottom left right upper lower middle center centre above below row column corner inside "
    "outside front back behind beside near under over"
)
_VISUAL = frozenset(f"{COLORS} {PLACES}".split())
# Markup first, so that `think` in a tag and `boxed` in a command are no words.
_PART = re.compile(
    r"(?P<markup><\|[^|<>]*\|>|</?\w+>|\\\w+)|(?P<digit>\d+)|(?P<word>[^\W\d_]+)", re.UNICODE
)


def kinds(pieces: Sequence[str]) -> list[str]:
    """The kind of each token, given the texts of all tokens of a response in order.

    `digit`; `color_place`, the words that name a colour or a place; `connective`, all other words;
    and the empty string for markup, punctuation and space. A piece of a word has its word's kind; a
    token that holds several parts has that of the first.
    """
    found: list[str] = []
    parts = [
        (match.start(), match.end(), _kind(match)) for match in _PART.finditer("".join(pieces))
    ]
    place = index = 0
    for piece in pieces:
        start, place = place, place + len(piece)
        while index < len(parts) and parts[index][1] <= start:
            index += 1
        inside = index < len(parts) and parts[index][0] < place
        found.append(parts[index][2] if inside else "")
    return found


def _kind(match: re.Match[str]) -> str:
    if match["markup"]:
        return ""
    if match["digit"]:
        return "digit"
    return "color_place" if match["word"].lower() in _VISUAL else "connective"
