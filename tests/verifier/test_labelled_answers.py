"""The labelled answers themselves: enough of them, well formed, and each kind described."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from pathlib import Path

FOLDER = Path(__file__).parent
PAIRS = [
    json.loads(line)
    for line in (FOLDER / "labelled_answers.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
]
FIELDS = {
    "verifier": str,
    "kind": str,
    "gold": str,
    "response": str,
    "correct": int,
    "source": str,
    "split": str,
}
VERIFIERS = {"any", "exact", "math_verify", "multiple_choice", "numeric"}


def test_each_pair_has_the_fields_that_the_page_lists():
    for pair in PAIRS:
        assert {name: type(value) for name, value in pair.items()} == FIELDS, pair
        assert pair["verifier"] in VERIFIERS, pair
        assert pair["correct"] in (0, 1), pair
        assert pair["split"] in ("dev", "test"), pair
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", pair["kind"]), pair
        assert pair["gold"].strip() and pair["source"].strip(), pair


def test_there_are_enough_pairs_for_each_verifier():
    counts = Counter(pair["verifier"] for pair in PAIRS)
    assert len(PAIRS) >= 600
    assert all(counts[verifier] >= 200 for verifier in VERIFIERS), counts


def test_no_pair_stands_twice_or_with_two_verdicts():
    keys = Counter((pair["verifier"], pair["gold"], pair["response"]) for pair in PAIRS)
    shared = {(gold, response) for verifier, gold, response in keys if verifier == "any"}
    own = {key[1:] for key in keys if key[0] in {"exact", "numeric", "math_verify"}}
    assert [key for key, count in keys.items() if count > 1] == []
    assert shared & own == set()


def test_each_kind_has_right_and_wrong_answers_in_both_splits():
    parts = defaultdict(set)
    for pair in PAIRS:
        parts[pair["kind"]].add((pair["split"], pair["correct"]))
    assert [kind for kind, present in parts.items() if len(present) < 4] == []


def test_all_pairs_of_one_gold_and_kind_are_in_one_split():
    splits = defaultdict(set)
    for pair in PAIRS:
        splits[pair["kind"], pair["gold"]].add(pair["split"])
    assert [key for key, names in splits.items() if len(names) > 1] == []
    assert 0.3 <= sum(pair["split"] == "test" for pair in PAIRS) / len(PAIRS) <= 0.45


def test_the_page_describes_each_kind_and_who_reads_it():
    page = (FOLDER / "labelled_answers.md").read_text(encoding="utf-8")
    described = {}
    for kinds, readers, _ in re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", page, re.MULTILINE):
        for kind in re.findall(r"`(\w+)`", kinds):
            described[kind] = set(re.findall(r"`(\w+)`", readers))
    readers = defaultdict(set)
    for pair in PAIRS:
        readers[pair["kind"]].add(pair["verifier"])
    assert described == readers
