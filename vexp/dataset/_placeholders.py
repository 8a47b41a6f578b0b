"""Placeholders for an image that other frameworks keep in the question.

Here the chat template places the image before the question. So one that stands for it, at an end of
the question or on a line of its own, is taken out; any other would be read as characters.
"""

from __future__ import annotations

import re

from vexp.dataset._cells import BadRow

_SLOT = re.compile(
    r"""
      (?:<\|vision_start\|>\s*)?<\|(?:image|img)(?:_?pad|_?\d+)?\|>(?:\s*<\|vision_end\|>)?
    | <\|vision_start\|>\s*<\|vision_end\|>
    | \(?<image>\./</image>\)?
    | <(image|img)>\s*(?:<(?:imagehere|img_context)>\s*)*</\1>
    | <(?:image|img)[ _-]?\d*>
    | <(?:image[ _-]?(?:here|placeholder|token|soft_token|pad)|start_of_image|img_context)>
    | \[(?-i:IMG|IMAGE)[ _-]?\d*\]
    | (?<![\w{}])\{\{?\s*(?:image|img)[ _-]?\d*\s*\}?\}
    """,
    re.IGNORECASE | re.VERBOSE,
)
_OTHER = re.compile(
    r"<\|?(video|audio|speech)(?:_?pad)?[ _-]?\d*\|?>|\[(?-i:VIDEO|AUDIO)\]", re.IGNORECASE
)
_CONTROL = re.compile(
    r"<\|\w+\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_(?:turn|utterance)>|<[be]os>"
)


def without_placeholder(question: str, *, image: bool) -> tuple[str, str]:
    """The question as it is asked, and the placeholder that was taken out; empty for none.

    Raises:
        BadRow: if it has more placeholders than there are images, or one within a sentence.
    """
    if other := _OTHER.search(question):
        raise BadRow(f"the question has the placeholder {other[0]}; only an image can be shown")
    slots = list(_SLOT.finditer(question))
    if not slots:
        return question, ""
    shown = ", ".join(dict.fromkeys(slot[0] for slot in slots))
    if not image:
        raise BadRow(f"the question has the placeholder {shown}, and the row has no image")
    if len(slots) > 1:
        raise BadRow(f"the question has {len(slots)} placeholders for images ({shown}) and 1 image")
    before, after = question[: slots[0].start()], question[slots[0].end() :]
    alone = not before.rpartition("\n")[2].strip() and not after.partition("\n")[0].strip()
    if before.strip() and after.strip() and not alone:
        raise BadRow(
            f"the question has the placeholder {shown} within a sentence; the image comes before "
            'the question, so write "the image" instead'
        )
    rest = f"{before.rstrip()}\n{after.lstrip()}".strip()
    if not rest:
        raise BadRow(f"the question is empty but for the placeholder {shown}")
    return rest, slots[0][0]


def control_token(text: str) -> str:
    """The first thing in a text that is written like a model's control token; empty for none."""
    match = _CONTROL.search(text)
    return match[0] if match else ""
