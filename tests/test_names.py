"""Names of files, made from anything that a user may write."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexp.names import LONGEST, file_name, readable
from vexp.tables.report.charts import slug


@pytest.mark.parametrize("text", ["heldout", "a_b-c.d=e+f,g@h", "x" * LONGEST, "table-dead"])
def test_what_can_name_a_file_does(text):
    assert file_name(text) == text


@given(st.text(max_size=400))
def test_every_text_gives_a_name_that_every_file_system_takes(text):
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=+,@-]*", file_name(text))
    assert len(file_name(text)) <= LONGEST


@pytest.mark.parametrize(
    "texts",
    [
        ("a/b", "a_b", "a b", "a\\b"), ("想", "答", ""), ("..", ".", "..."), ("-a", "a"),
        ("x" * 300, "x" * 301), ("問" * 99, "問" * 98), ("a?", file_name("a?")),
    ],
)  # fmt: skip
def test_different_texts_have_different_names(texts):
    assert len({file_name(text) for text in texts}) == len(texts)


def test_charts_of_tags_in_other_letters_are_kept_apart():
    assert slug("accuracy/single") == "accuracy-single"
    assert (
        len({slug(f"accuracy/{tag}") for tag in ("图", "表", "a?", "a!")} | {slug("accuracy")}) == 5
    )


def test_what_is_readable_is_cut():
    assert readable("grpo-" * 100) == ("grpo-" * 40).rstrip("-")
