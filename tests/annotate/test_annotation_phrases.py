"""Which phrases can be located, and which are the same thing said twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexp.annotate.phrases import can_be_located, head, merged, overlap, same_thing, words

NOUNS = ["cup", "cups", "dog", "background", "answer", "man"]
MODIFIERS = ["red", "left", "large", "the", "a", "wooden"]
TAILS = ["", " on the table", " of the house", " left of the door", " wearing a hat"]
phrase = st.builds(
    lambda before, noun, tail: " ".join([*before, noun]) + tail,
    st.lists(st.sampled_from(MODIFIERS), max_size=3),
    st.sampled_from(NOUNS),
    st.sampled_from(TAILS),
)


@pytest.mark.parametrize(
    ("text", "noun"),
    [
        ("red mug", "mug"), ("the red mug on the table", "mug"), ("cup left of the sink", "cup"),
        ("the left cup", "cup"), ("large left cup", "cup"), ("two Cups", "cup"), ("glass", "glass"),
        ("man in a red shirt", "man"), ("bar labeled 2019", "bar"), ("bus", "bus"), ("", ""),
        ("the", ""), ("dog's bowl", "bowl"), ("angle ABC", "abc"), ("left", "left"),
    ],
)  # fmt: skip
def test_head_nouns(text, noun):
    assert head(text) == noun


@pytest.mark.parametrize(
    "text",
    ["the image", "background", "the whole scene", "entire picture", "the number of apples", "",
     "the background of the photo", "spatial relationship", "...", "The Answer"],
)  # fmt: skip
def test_what_has_no_place_is_not_looked_for(text):
    assert not can_be_located(text)


@pytest.mark.parametrize(
    "text", ["picture frame", "number 5", "image sensor", "视频", "view finder"]
)
def test_what_only_sounds_like_it_is(text):
    assert can_be_located(text)


def test_near_duplicates_leave_the_one_that_says_most():
    assert merged(["car", "the red car", "a dog", "red car"], 0.9) == ["the red car", "a dog"]
    assert merged(["left cup", "right cup"], 0.9) == ["left cup", "right cup"]
    assert merged(["large red metal cube", "small red metal cube"], 0.7) == ["large red metal cube"]
    assert merged(["large red metal cube", "small red metal cube"], 0.9) == [
        "large red metal cube", "small red metal cube",
    ]  # fmt: skip
    assert merged(["the scene", "cup"], 0.9) == ["cup"]
    assert merged(["red shirt of the man", "red man"], 0.0) == ["red shirt of the man", "red man"]


@given(st.lists(phrase, max_size=6), st.sampled_from([0.5, 0.9, 1.0]))
def test_what_merging_promises(phrases, near):
    found = merged(phrases, near)
    places = [phrases.index(text) for text in found]
    assert places == sorted(places)
    for index, text in enumerate(found):
        assert can_be_located(text)
        assert not [other for other in found[:index] if same_thing(text, other, near)]
    for text in phrases:
        if can_be_located(text) and text not in found:
            twins = [other for other in found if same_thing(text, other, near)]
            assert max(len(words(other)) for other in twins) >= len(words(text))
    assert merged(found, near) == found


@given(phrase, phrase)
def test_overlap_against_counting(one, other):
    def plain(text):
        kept = []
        for word in text.lower().split():
            if word not in ("the", "a"):
                word = word[:-1] if word == "cups" else word
                if word not in kept:
                    kept.append(word)
        return kept

    left, right = plain(one), plain(other)
    common = sum(1 for word in left if word in right)
    assert overlap(one, other) == pytest.approx(common / min(len(left), len(right)))
    assert overlap(one, other) == overlap(other, one)
