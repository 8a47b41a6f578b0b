"""The answer is right if it is the gold answer, spelling aside."""

from __future__ import annotations

from dataclasses import dataclass

from vexp.registry import register
from vexp.response.format import extract_answer
from vexp.verifier._compare import same_text
from vexp.verifier._text import LONGEST, normalized, wrapping_left
from vexp.verifier.base import Verdict, Verifier


@register("verifier", "exact")
@dataclass(frozen=True, kw_only=True)
class Exact(Verifier):
    """Equality as text, after case, spaces, LaTeX wrappers, units and thousands separators."""

    version = 2  # 2: by the one reader of docs/answers.md

    def verdict(self, response: str, gold: str) -> Verdict:
        extracted = extract_answer(response)
        if self.gold_problem(gold):
            return Verdict(0.0, extracted, "bad_gold")
        if extracted is None:
            return Verdict(0.0, None, "no_answer")
        return Verdict(float(same_text(extracted, gold)), extracted)

    def gold_problem(self, gold: str) -> str | None:
        if not normalized(gold[:LONGEST]):
            return "it is empty"
        return wrapping_left(gold)
