"""Phrases that can be located, each thing once (EASE, appendix B.1).

The paper removes phrases for the whole scene, the background, the image itself and abstractions,
and merges near duplicates by string overlap and head-noun matching. The word lists and the measure
are ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def _listed(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Head nouns of what has no place of its own in an image.
WHOLE = _listed("""
    image picture photo photograph figure diagram screenshot illustration scene view background
    foreground surroundings environment setting everything
""")
ABSTRACT = _listed("""
    answer question option choice number count amount total sum difference value fact reason
    relation relationship relevance comparison information detail concept idea meaning context
    atmosphere mood time weather activity action situation knowledge
""")
ARTICLES = _listed("a an the this that these those its their his her some all each")
# What begins a part behind the head noun.
_BEHIND = _listed("""
    of on in at by with from to near under over above below behind beside between inside outside
    left right next that which who whose showing labeled labelled named called wearing holding
    containing for
""")
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def words(phrase: str) -> list[str]:
    """The words of a phrase in lower case, without articles."""
    return [word for word in _WORD.findall(phrase.casefold()) if word not in ARTICLES]


def head(phrase: str) -> str:
    """The noun that a phrase is about: the last word before what describes its place or parts."""
    found = words(phrase)
    for place, word in enumerate(found):
        if place and word in _BEHIND and not _is_modifier(found, place):
            return _singular(found[place - 1])
    return _singular(found[-1]) if found else ""


def can_be_located(phrase: str) -> bool:
    """Whether a phrase names something with a place of its own in the image."""
    noun = head(phrase)
    return bool(noun) and noun not in WHOLE and noun not in ABSTRACT


def overlap(one: str, other: str) -> float:
    """Share of the shorter phrase's words that the other one has too, in [0, 1]."""
    left, right = ({_singular(word) for word in words(phrase)} for phrase in (one, other))
    return len(left & right) / min(len(left), len(right)) if left and right else 0.0


def same_thing(one: str, other: str, near: float) -> bool:
    """Whether two phrases are near duplicates: the same head noun, and an overlap of `near`."""
    return head(one) == head(other) and overlap(one, other) >= near


def merged(phrases: Iterable[str], near: float) -> list[str]:
    """The phrases that can be located, of near duplicates the one with the most words, in order."""
    usable = [phrase for phrase in phrases if can_be_located(phrase)]
    by_length = sorted(range(len(usable)), key=lambda place: -len(words(usable[place])))
    kept: list[int] = []
    for place in by_length:
        if not any(same_thing(usable[place], usable[other], near) for other in kept):
            kept.append(place)
    return [usable[place] for place in sorted(kept)]


def _is_modifier(found: Sequence[str], place: int) -> bool:
    """`left` and `right` before a noun say which one: the left cup."""
    last = place == len(found) - 1
    return found[place] in ("left", "right") and not last and found[place + 1] not in _BEHIND


def _singular(word: str) -> str:
    """A rough singular, enough to see that cups are of the kind of a cup."""
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word
