"""The answer is right if it is the gold number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from vexp.config.types import Between
from vexp.registry import register
from vexp.response.format import extract_answer
from vexp.verifier._quantity import read_value, same_value
from vexp.verifier._text import wrapping_left
from vexp.verifier.base import Verdict, Verifier


@register("verifier", "numeric")
@dataclass(frozen=True, kw_only=True)
class Numeric(Verifier):
    """Equality as quantities: numbers with their units, times of day, ratios.

    Whole numbers are compared exactly, others up to `tolerance`. An answer that is no quantity was
    never compared: its status is "unreadable".
    """

    version = 2  # 2: by the one reader of docs/answers.md

    # Whole numbers have to be equal.
    tolerance: Annotated[float, Between(0, 1, high_open=True)] = 1e-4  # relative, of other numbers

    def verdict(self, response: str, gold: str) -> Verdict:
        extracted = extract_answer(response)
        wanted = read_value(gold)
        if wanted is None:
            return Verdict(0.0, extracted, "bad_gold")
        if extracted is None:
            return Verdict(0.0, None, "no_answer")
        answer = read_value(extracted)
        if answer is None:
            return Verdict(0.0, extracted, "unreadable")
        return Verdict(float(same_value(answer, wanted, self.tolerance)), extracted)

    def gold_problem(self, gold: str) -> str | None:
        if read_value(gold) is not None:
            return None
        return wrapping_left(gold) or "it is no number with or without a unit"
