"""The list of edge cases in docs/methods.md: twelve of them, and every test it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def rows():
    text = (TESTS.parent / "docs" / "methods.md").read_text("utf-8")
    table = text.partition("## Edge cases\n")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
    return {line.split("|")[1].strip(): re.findall(r"`([^`]+::[^`]+)`", line) for line in lines}


def test_there_are_twelve():
    assert len(rows()) == 12


@pytest.mark.parametrize("case", rows())
def test_each_is_held_by_tests_that_exist(case):
    named = rows()[case]
    assert named
    for test in named:
        path, _, function = test.partition("::")
        assert f"\ndef {function}(" in (TESTS / path).read_text("utf-8"), test
