"""Rows of the benchmarks that lmms-eval lacks, as questions: functions for our task files.

A column is found by the first of several names, since the published files call it differently.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vexp.errors import DataError
from vexp.files import open_regular

FOLDER = "VEXP_BENCHMARK_DATA"  # environment: the folder that image paths are relative to
_COLUMNS = {
    "question": ("question", "text", "problem", "query"),
    "answer": ("answer", "label", "ground_truth", "gt"),
    "image": ("image", "image_path", "img", "image_filename", "images"),
    "choices": ("choices", "options"),
    "context": ("context", "hint"),
}
Row = Mapping[str, Any]


def text(row: Row, lmms_eval_specific_kwargs: Mapping[str, str] | None = None) -> str:
    """The question with its context before it and its options, lettered, below it."""
    context, choices = _maybe(row, "context"), _maybe(row, "choices") or ()
    lines = [str(context).strip()] if context else []
    lines.append(str(_cell(row, "question")).replace("<image>", "").strip())
    lines += [f"{chr(ord('A') + index)}. {choice}" for index, choice in enumerate(choices)]
    return "\n".join(lines) + (lmms_eval_specific_kwargs or {}).get("post_prompt", "")


def image(row: Row) -> list[Any]:
    """The row's image: as it is decoded already, or from a path or bytes; none where it is empty.

    Raises:
        DataError: the file is not there, or is no image.
    """
    found = _maybe(row, "image")
    listed = found if isinstance(found, list) else [found]
    return [_opened(one) for one in listed if one not in (None, "")]


def answer(row: Row) -> str:
    """The gold answer as text; a boolean is yes or no."""
    found = _cell(row, "answer")
    return ("yes" if found else "no") if isinstance(found, bool) else str(found).strip()


def _opened(found: Any) -> Any:
    import io

    from PIL import Image

    if isinstance(found, Image.Image):
        return found.convert("RGB")
    try:
        if isinstance(found, Mapping) and found.get("bytes"):
            return Image.open(io.BytesIO(found["bytes"])).convert("RGB")
        path = Path(
            os.environ.get(FOLDER, ""), found["path"] if isinstance(found, Mapping) else found
        )
        with open_regular(path) as file:
            return Image.open(file).convert("RGB")
    except OSError as error:
        raise DataError(
            f"an image of the benchmark cannot be read: {error}",
            where=str(found)[:200],
            remedy="put the images beside the questions, as they are published",
        ) from error


def _maybe(row: Row, column: str) -> Any:
    return next((row[name] for name in _COLUMNS[column] if name in row), None)


def _cell(row: Row, column: str) -> Any:
    found = _maybe(row, column)
    if found is None:
        raise DataError(
            f"the benchmark's file has no column {column!r}",
            where=f"its columns are {', '.join(map(str, row))}",
            accepted=f"a column {' or '.join(_COLUMNS[column])}",
            remedy="rename the column, or name another file with data=",
        )
    return found
