"""Options of multiple-choice questions: their letters, their text, or both."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vexp.verifier._text import plain_math

_LEAD = re.compile(
    r"(?:(?:so|thus|therefore|hence),?\s+)?(?:it\s+is\s+|i\s+choose\s+)?"
    r"(?:(?:the|my)\s+)?(?:(?:correct|right|best|final)\s+)?"
    r"(?:(?:options?|choices?|answers?|letters?)(?:\s+(?:option|choice|letter)s?)?\s*(?:is|are)?\s*:?\s*)?"
    r"(?:(?:options?|choices?|letters?|both|only)\s+)?(?=[^a-z\s]|[a-z]\b)",
    re.IGNORECASE,
)
_TAIL = re.compile(
    r"\s*(?:\bonly|\b(?:is|are)\s+(?:the\s+)?(?:correct|right|best)(?:\s+(?:answer|option|choice)s?)?)?[.\s]*$",
    re.IGNORECASE,
)
_ONE = r"(?:[(\[{]\s*([a-z])\s*[)\]}]\s*[.:]?|([a-z])\s*[).:](?=[\s,;&/+]|$)|([a-z])(?![a-z]))"
_ITEM = re.compile(_ONE, re.IGNORECASE)
_BETWEEN = re.compile(
    r"\s*(?:,\s*and\b|,\s*or\b|,|;|&|\+|/|\||\band\b|\bor\b|\n|(?=[(\[{])|(?-i:\s+(?=[A-Z](?![a-zA-Z]))))\s*",
    re.IGNORECASE,
)
_HEDGES = re.compile(r"\bor\b|/|\|", re.IGNORECASE)
_TOGETHER = re.compile(r"[A-J]{2,8}")
_LABELLED = re.compile(
    r"(?:[(\[{]\s*([a-z])\s*[)\]}]\s*(?:[.:,]|[-=](?=\s))?|([a-z])\s*(?:[).:;](?!\S*\.[a-z])|,(?=\s)|\s[-=](?=\s)|\n)"
    r"|([a-z])(?=\s*\())\s*(\S.*)",
    re.IGNORECASE | re.DOTALL,
)
_ANOTHER = re.compile(
    r"[(\[{]?\s*(?:or|and|&|/)\s*[(\[]?\s*[a-z]\b(?![\s-]+[a-z])|[(\[]?[a-z][)\]]?[.]?$",
    re.IGNORECASE,
)
# A. a cat, C. a dog; A) a cat C) a dog
_ONE_MORE = re.compile(r"(?:(?:[,;\n]|\band\b)\s*[(\[]?([A-Z])[)\].:]|\s([A-Z])\))\s")


@dataclass(frozen=True)
class Option:
    """Letters (upper case), and the text; either may be missing. `hedged`: letters as a guess."""

    letters: frozenset[str] = frozenset()
    text: str = ""
    hedged: bool = False


def read_option(answer: str) -> Option:
    """The option or options that an answer names.

    A letter is taken only from an answer that consists of letters (`B`, `(b).`, `option B`,
    `A and C`, `AC`) or begins with one and a separator (`B. a cat`), never from within other words.
    """
    answer = plain_math(answer)
    bare = _TAIL.sub("", _LEAD.sub("", answer, count=1).strip(" \t\n\"'*"))
    if letters := _letters(bare):
        return Option(frozenset(letters), "", bool(_HEDGES.search(bare)))
    if _TOGETHER.fullmatch(bare) and len(set(bare)) == len(bare):
        return Option(frozenset(bare), answer)
    for text in (answer, bare):
        if match := _LABELLED.fullmatch(text):
            letter, rest = (match[1] or match[2] or match[3]).upper(), match[4].strip()
            if _ANOTHER.match(rest):
                return Option(frozenset(letter), rest, hedged=True)
            more = {(match[1] or match[2]).upper() for match in _ONE_MORE.finditer(rest)}
            return Option(frozenset({letter} | more), _without_brackets(rest))
    return Option(text=answer)


def _letters(text: str) -> list[str]:
    """The letters that a text is a list of; empty if it is anything else."""
    letters: list[str] = []
    place = 0
    while match := _ITEM.match(text, place):
        letters.append((match[1] or match[2] or match[3]).upper())
        place = match.end()
        if place == len(text):
            return letters
        gap = _BETWEEN.match(text, place)
        if not gap or len(letters) > 26:
            return []
        place = gap.end()
    return []


def _without_brackets(text: str) -> str:
    return text[1:-1] if re.fullmatch(r"\([^()]*\)", text) else text
