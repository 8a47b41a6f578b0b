"""Reading what a model wrote around the JSON it was asked for."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
_SHOWN = 80
_TRIED = 50  # brackets that may begin the JSON; each nest of thousands takes a while


def json_in(answer: str) -> Any:
    """The first JSON object or list in an answer, without thoughts, fences and prose around it.

    Raises:
        ValueError: if there is none; says what stands there instead.
    """
    text = _THOUGHT.sub("", answer)
    decoder = json.JSONDecoder()
    for match in itertools.islice(re.finditer(r"[\[{]", text), _TRIED):
        try:
            return decoder.raw_decode(text, match.start())[0]
        except (ValueError, RecursionError):
            continue
    raise ValueError(f"there is no JSON in {shown(text)}")


def shown(answer: Any) -> str:
    """The beginning of an answer, for messages."""
    text = " ".join(str(answer).split())
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
