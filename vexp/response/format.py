"""Reading a response: where its answer is, and whether it keeps to the format. Pure text.

Extraction takes the first that there is of: the last closed `\\boxed{...}` with its braces matched
and something in it, the last closed `<answer>` span, a final `Answer:` line. A draft in the
thoughts is none of these: only what stands behind the last `</think>` counts, and nothing within a
`<think>` that never ends. There is no fallback to the whole response, which rewards guessing by
listing and was seen to be hacked. Everything takes time linear in the length of the text.

The formats are those of the papers without the quirk of EasyR1's released check, which removes
spaces around `<`, `>` and `/` before matching and thereby alters the answer ("a / b" -> "a/b"). So
`< think >` is no tag here. Different from it, too: there is exactly one think block, and after it a
box that is not blank stands at the end of the response (EasyR1 accepts any text behind it).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from vexp.reward.base import Scored

ResponseFormat = Literal["think_boxed", "answer_tag"]

_BOX = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(rf"{_BOX.pattern}|\\.|[{{}}]", re.DOTALL)
# What may stand behind a final box: closing delimiters and punctuation, which a token may have
# together with the box's brace.
_AFTER_BOX = re.compile(r"[^\w{]*")
_ANSWER_LINE = re.compile(r"[*_\s]*(?:final\s+)?answer[*_\s]*[:：][*_\s]*(.+)", re.IGNORECASE)


def extract_answer(text: str) -> str | None:
    """The answer a response gives, stripped of surrounding space; None if it gives none."""
    statement = _statement(text)
    return statement and statement[1]


def answer_start(text: str) -> int | None:
    """Start of the statement of the answer that `extract_answer` reads; None if there is none.

    That is the box, the opening tag of the span, or the line.
    """
    statement = _statement(text)
    return statement and statement[0]


def _statement(text: str) -> tuple[int, str] | None:
    """Place and content of the statement of the answer, outside the thoughts."""
    start = text.rfind("</think>") + len("</think>") if "</think>" in text else 0
    end = text.find("<think>", start)
    spoken = text[start:end] if end >= 0 else text[start:]
    for begin, inside, close in reversed(_boxes(spoken)):
        if content := spoken[inside:close].strip():
            return start + begin, content
    if span := _last_span(spoken):
        return start + spoken.rfind("<answer>", 0, spoken.rfind("</answer>")), span
    if line := _answer_line(spoken):
        return start + spoken.rstrip().rfind("\n") + 1, line
    return None


# The character without which an answer of each format is not closed.
CLOSES = {"think_boxed": "}", "answer_tag": ">"}


def states_answer(text: str, response_format: str) -> bool:
    """Whether a response has stated its answer, so that nothing more is needed.

    `think_boxed`: in a closed box, something in it, behind the think block. `answer_tag`: in a
    closed `<answer>` span, something in it. A box within the thoughts is none. Asked after every
    token it is true first of the token that closes the answer, whatever else that token spells: in
    the vocabularies of real models there are `}.`, `}$` and `>\\n`.
    """
    if response_format == "answer_tag":
        return _last_span(text) is not None
    _, closed, behind = text.rpartition("</think>")
    boxes = _boxes(behind)
    return bool(closed) and any(behind[start:end].strip() for _, start, end in boxes)


def is_well_formed(text: str, response_format: str, emits: Sequence[str] = ()) -> bool:
    """Whether the whole response has the format.

    `think_boxed`: begins with `<think>`, has exactly one think block, and ends in a box with
    something in it. `answer_tag`: has exactly one closed `<answer>` block with something in it.
    Special tokens among `emits` may stand before it, each followed by white space or not: they are
    a step before the reasoning (`<Focus> <think> ... </think> ...`).

    Raises:
        ValueError: for a format there is not.
    """
    if emits:
        text = re.sub(rf"\A(?:(?:{'|'.join(map(re.escape, emits))})\s*)+", "", text)
    if response_format == "think_boxed":
        return _is_think_boxed(text)
    if response_format == "answer_tag":
        return _is_answer_tag(text)
    raise ValueError(f"unknown response format {response_format!r}")


def keep_format(scored: Scored) -> list[bool]:
    """Whether each response, with what its prompt has written of it, has the format."""
    return [
        is_well_formed(scored.opening + text, scored.response_format, scored.emits)
        for text in scored.texts
    ]


def _is_think_boxed(text: str) -> bool:
    if not text.startswith("<think>") or text.count("<think>") != 1:
        return False
    if text.count("</think>") != 1:
        return False
    behind = text[text.index("</think>") + len("</think>") :]
    boxes = _boxes(behind)
    if not boxes:
        return False
    _, start, end = boxes[-1]
    return bool(behind[start:end].strip()) and bool(_AFTER_BOX.fullmatch(behind, end + 1))


def _is_answer_tag(text: str) -> bool:
    if text.count("<answer>") != 1 or text.count("</answer>") != 1:
        return False
    return _last_span(text) is not None


def _boxes(text: str) -> list[tuple[int, int, int]]:
    """Start of each closed box, start and end of its content; escaped braces do not count."""
    open_braces: list[tuple[int, int] | None] = []  # begin and content, for those that open a box
    boxes: list[tuple[int, int, int]] = []
    for token in _BRACE.finditer(text):
        if token[0].startswith("\\boxed"):
            open_braces.append(token.span())
        elif token[0] == "{":
            open_braces.append(None)
        elif token[0] == "}" and open_braces and (opening := open_braces.pop()):
            boxes.append((*opening, token.start()))
    return sorted(boxes)


def _last_span(text: str) -> str | None:
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    if start < 0:
        return None
    return text[start + len("<answer>") : end].strip() or None


def _answer_line(text: str) -> str | None:
    lines = text.rstrip().rsplit("\n", 1)
    match = _ANSWER_LINE.fullmatch(lines[-1].strip()) if lines else None
    return match[1].strip(" \t*_") or None if match else None
