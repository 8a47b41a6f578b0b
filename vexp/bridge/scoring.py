"""Scoring by rule where lmms-eval has no task or only a judge: functions for our task files."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vexp.bridge.questions import Row, answer
from vexp.registry import REGISTRY
from vexp.verifier.base import Verdict, Verifier
from vexp.verifier.pool import judge

_LETTER = re.compile(r"\(?[A-Z]\)?")
_YES_OR_NO = re.compile(r"\W*(yes|no|true|false)\b", re.IGNORECASE)


def choice(row: Row, responses: Sequence[str]) -> dict[str, float]:
    """Option letters are compared, see verifier `multiple_choice`."""
    return _accuracy("multiple_choice", row, responses)


def number(row: Row, responses: Sequence[str]) -> dict[str, float]:
    """Numbers are compared, see verifier `numeric`."""
    return _accuracy("numeric", row, responses)


def choice_or_math(row: Row, responses: Sequence[str]) -> dict[str, float]:
    """As options where the gold answer is a letter, as mathematics (math_verify) where not."""
    letter = _LETTER.fullmatch(answer(row))
    return _accuracy("multiple_choice" if letter else "math_verify", row, responses)


def yes_or_no(row: Row, responses: Sequence[str]) -> dict[str, float]:
    """The answer has to begin with the gold word; an answer with neither word is wrong."""
    from vexp.response.format import extract_answer

    found = _YES_OR_NO.match(extract_answer(responses[0]) or "")
    wanted = _YES_OR_NO.match(answer(row))
    said, gold = (match and match[1].casefold() in ("yes", "true") for match in (found, wanted))
    return {"accuracy": float(found is not None and said == gold)}


def hrbench(row: Row, responses: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """As lmms-eval scores HR-Bench, but an answer that its rule cannot read is wrong.

    There a judge is asked instead, and without one the whole evaluation fails.
    """
    from lmms_eval.tasks.hrbench import utils

    read = utils.hrbench_evaluator.can_infer(
        responses[0].strip(), utils.hrbench_doc_to_options(row)
    )
    score = {
        "index": row["index"],
        "cycle_category": row["cycle_category"],
        "gpt_score": float(bool(read) and str(read).casefold() == row["answer"].casefold()),
    }
    return {row["category"]: score, "average": score}


def _accuracy(verifier: str, row: Row, responses: Sequence[str]) -> dict[str, float]:
    verdict: Verdict = judge(_verifier(verifier), [responses[0]], [answer(row)])[0]
    return {"accuracy": verdict.correct}


@functools.cache
def _verifier(name: str) -> Verifier:
    found = REGISTRY.get("verifier", name)()
    assert isinstance(found, Verifier)
    return found
