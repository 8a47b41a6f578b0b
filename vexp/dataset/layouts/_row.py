"""A row of a table in the making, and one that is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vexp.dataset._boxes import BoxFormat
from vexp.dataset.base import Split

_PLACEHOLDER = "<image>"


@dataclass(frozen=True, slots=True)
class Row:
    """One question; `image` is a file, the bytes of one, or None."""

    split: Split
    id: str
    question: str
    answer: str
    image: Path | bytes | None
    boxes: Sequence[Sequence[float]] = ()  # x1, y1, x2, y2
    box_format: BoxFormat = "xyxy_px"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A row that cannot be used, with a reason that is the same for all of its kind."""

    id: str
    reason: str


def plain(question: Any) -> str:
    """A question without the placeholders that stand for its image."""
    return str(question or "").replace(_PLACEHOLDER, "").strip()


def unboxed(answer: Any) -> str:
    r"""An answer without the \boxed{} around all of it."""
    text = str(answer if answer is not None else "").strip()
    if text.startswith("\\boxed{") and text.endswith("}"):
        inner = text[len("\\boxed{") : -1]
        depth = 0
        for sign in inner:
            depth += (sign == "{") - (sign == "}")
            if depth < 0:
                return text  # the first brace closes before the end
        return inner.strip()
    return text


def spoken(answer: Any) -> str:
    """True and false as yes and no; everything else as text."""
    if isinstance(answer, bool):
        return "yes" if answer else "no"
    return str(answer if answer is not None else "").strip()
