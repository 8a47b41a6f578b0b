"""Verdicts beside those of a careful reader: as precise and complete as each verifier claims."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

import vexp
from benchmarks.verdicts import (
    ALL,
    LABELS,
    PRECISION,
    RECALL,
    Pair,
    Score,
    judged,
    score,
    scores,
    table,
)
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
    results = scores(pairs)
    assert results["numeric", "all"] == Score(4, 1, 1, 2, 1)
    assert results["numeric", "a"].precision == results["numeric", "a"].recall == 0.5
    assert results["numeric", "b"].precision is results["numeric", "b"].recall is None
    lines = table(results).splitlines()
    assert lines[0] == "| kind | `numeric` |"
    assert lines[2:] == [
        "| all | 50.0 / 50.0 (4) |",
        "| a | 50.0 / 50.0 (3) |",
        "| b | – / – (1) |",
        "| never compared | 1 |",
    ]


def test_the_page_has_the_table_of_these_pairs() -> None:
    """Kinds and counts; the command prints the shares."""
    page = (Path(vexp.__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    counts = Counter()
    for line in LABELS.read_text(encoding="utf-8").split("\n")[:-1]:
        row = json.loads(line)
        for name in ALL[:3] if row["verifier"] == "any" else (row["verifier"],):
            counts[row["kind"], name] += 1
            counts["all", name] += 1
    shown = {}
    for kind, *cells in re.findall(
        r"^\| (\w+) \| (.*) \| (.*) \| (.*) \| (.*) \|$", page, re.MULTILINE
    ):
        for name, cell in zip(ALL, cells, strict=True):
            if match := re.fullmatch(r"\S+ / \S+ \((\d+)\)", cell):
                shown[kind, name] = int(match[1])
    assert shown == counts
