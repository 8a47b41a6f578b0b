"""Verdicts beside those of a careful reader: as precise and complete as each verifier claims."""

from __future__ import annotations

import pytest

from benchmarks.verdicts import ALL, PRECISION, RECALL, Pair, Score, judged, score, scores, table
from vexp.verifier.base import Verdict

EVERY = {"math_verify": 8}  # pairs that the symbolic library is asked about take long


@pytest.mark.parametrize("name", ALL)
def test_precision_and_recall(name: str) -> None:
    pairs = list(judged(verifiers=[name], every=EVERY.get(name, 1)))
    counts = score(pairs)
    assert counts.pairs >= 150
    wrong = [pair for pair in pairs if pair.wrong]
    assert counts.precision >= PRECISION, wrong
    assert counts.recall >= RECALL, wrong


def pair(kind: str, correct: bool, paid: bool, status: str = "ok") -> Pair:
    return Pair("numeric", kind, "5", "", correct, Verdict(float(paid), "", status))


def test_shares_are_counted_by_verifier_and_kind() -> None:
    pairs = [
        pair("a", True, True),
        pair("a", True, False, "unreadable"),
        pair("a", False, True),
        pair("b", False, False),
    ]
    found = scores(pairs)
    assert found["numeric", "all"] == Score(4, 1, 1, 2, 1)
    assert found["numeric", "a"].precision == found["numeric", "a"].recall == 0.5
    assert found["numeric", "b"].precision is found["numeric", "b"].recall is None
    assert "| `numeric` | a | 3 | 50.0 % | 50.0 % | 1 |" in table(found)
