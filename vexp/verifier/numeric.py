"""The answer is right if it is the gold number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from vexp.config.types import Between
from vexp.registry import register
from vexp.train.responses import extract_answer
from vexp.verifier._number import read_quantity
from vexp.verifier.base import Verdict, Verifier


@register("verifier", "numeric")
@dataclass(frozen=True, kw_only=True)
class Numeric(Verifier):
    """Equality as numbers: decimals, fractions, roots, percent, separators, units."""

    tolerance: Annotated[float, Between(0, 1, high_open=True)] = 1e-4  # relative

    def verdict(self, response: str, gold: str) -> Verdict:
        extracted = extract_answer(response)
        wanted = read_quantity(gold)
        if wanted is None:
            return Verdict(0.0, extracted, "bad_gold")
        if extracted is None:
            return Verdict(0.0, None, "no_answer")
        found = read_quantity(extracted)
        right = found is not None and found.equals(wanted, self.tolerance)
        return Verdict(float(right), extracted)
