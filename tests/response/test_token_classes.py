"""Kinds of words by token, on texts cut up in every way."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexp.backbone._tokenizer import build
from vexp.response.token_classes import KINDS, kinds

TEXT = "<think>red is 5, the top digit is 13</think>\\boxed{18}<|im_end|>"
WORDS = (
    ("red", "color_place"), ("is", "connective"), ("5", "digit"), ("the", "connective"),
    ("top", "color_place"), ("digit", "connective"), ("is", "connective"), ("13", "digit"),
    ("18", "digit"),
)  # fmt: skip
MARKUP = [
    (TEXT.index(tag), TEXT.index(tag) + len(tag))
    for tag in ("<think>", "</think>", "\\boxed", "<|im_end|>")
]


def test_the_demonstrations_of_the_default_task():
    tokenizer = build()
    ids = tokenizer("<think>red is 5, blue is 3</think>\\boxed{8}").input_ids
    pieces = tokenizer.batch_decode([[token] for token in [*ids, tokenizer.eos_token_id]])
    found = {piece.strip(): kind for piece, kind in zip(pieces, kinds(pieces), strict=True)}
    words = {"red": "color_place", "blue": "color_place", "is": "connective"}
    assert {piece: kind for piece, kind in found.items() if kind} == words | dict.fromkeys(
        "538", "digit"
    )


@given(st.lists(st.integers(0, len(TEXT)), max_size=12))
def test_a_piece_of_a_word_has_the_kind_of_its_word(cuts):
    edges = sorted({0, len(TEXT), *cuts})
    pieces = list(itertools.pairwise(edges))
    spans, place = [], 0
    for word, kind in WORDS:
        start = TEXT.index(word, place)
        place = start + len(word)
        spans.append((start, place, kind))
    found = kinds([TEXT[start:end] for start, end in pieces])
    for (start, end), kind in zip(pieces, found, strict=True):
        inside = [k for a, b, k in spans if a < end and b > start]
        assert kind in [*inside, ""]
        if not any(a < end and b > start for a, b in MARKUP):
            assert kind == (inside[0] if inside else "")


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([], []),
        (["", " "], ["", ""]),
        (["mag", "enta"], ["color_place", "color_place"]),
        ([" Is", " LEFT", "2,"], ["connective", "color_place", "digit"]),
        (["<", "think", ">", "boxed", "\\", "boxed"], ["", "", "", "connective", "", ""]),
        (["\ufffd", "über", "٣"], ["", "connective", "digit"]),
    ],
)
def test_by_hand(pieces, expected):
    assert kinds(pieces) == expected
    assert set(expected) <= {"", *KINDS}
