"""Extraction of answers and the format check."""

from __future__ import annotations

import dataclasses
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexp.response.format import answer_start, extract_answer, is_well_formed, states_answer
from vexp.reward.base import Scored
from vexp.reward.format import Format


def balanced() -> st.SearchStrategy[str]:
    """Texts whose braces match, however deeply nested, without backslashes."""
    plain = st.text(st.characters(exclude_characters="{}\\"), max_size=6)
    return st.recursive(
        plain, lambda inner: st.tuples(plain, inner, plain).map(lambda t: f"{t[0]}{{{t[1]}}}{t[2]}")
    )


@given(balanced(), st.text(st.characters(exclude_characters="{}\\"), max_size=20))
def test_a_box_gives_back_what_it_holds(inside: str, around: str) -> None:
    expected = inside.strip() or None
    assert extract_answer(f"{around}\\boxed{{{inside}}}") == expected


@given(balanced(), balanced())
def test_the_last_box_wins(first: str, last: str) -> None:
    text = f"\\boxed{{{first}}} then \\boxed{{{last}x}}"
    assert extract_answer(text) == f"{last}x".strip()


@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    found = extract_answer(text)
    assert found is None or (found == found.strip() and found in text)
    for response_format in ("think_boxed", "answer_tag"):
        assert is_well_formed(text, response_format) in (True, False)


@given(st.text(st.sampled_from("ab{}\\"), max_size=12).map(lambda t: t.replace("\\boxed", "")))
def test_extraction_agrees_with_counting_braces(inside: str) -> None:
    """A second plain implementation: the first end at which as many braces closed as opened."""
    text = f"\\boxed{{{inside}"
    depth, end, place = 1, None, len("\\boxed{")
    while place < len(text):
        if text[place] == "\\":
            place += 2
            continue
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            end = place
            break
        place += 1
    expected = None if end is None else text[len("\\boxed{") : end].strip() or None
    assert extract_answer(text) == expected


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>red is 7</think>\\boxed{7}", "7"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),  # escaped braces do not count
        ("\\boxed{\\boxed{5}}", "5"),
        ("\\boxed{5} and then \\boxed{6", "5"),  # the last one that is closed
        ("\\boxed{5", None),
        ("\\boxed{ }", None),
        ("<answer>cat</answer>", "cat"),
        ("<answer>cat</answer> or <answer>dog</answer>", "dog"),
        ("<answer><answer>cat</answer>", "cat"),
        ("<answer>cat", None),
        ("cat</answer>", None),
        ("</answer>cat<answer>", None),
        ("<answer>cat</answer>\\boxed{dog}", "dog"),  # the box comes first
        ("Because.\nAnswer: 12", "12"),
        ("Because.\n**Final answer:** 12", "12"),
        ("Answer: 12\nNo, wait.", None),  # not the final line
        ("My answer is 12", None),
        ("Answer:", None),
        ("<think>\\boxed{3}</think><answer>4</answer>", "4"),  # no draft in the thoughts
        ("<think>\\boxed{3}</think>\nAnswer: 4", "4"),
        ("<think>\\boxed{3}</think> I cannot tell", None),
        ("<think><answer>3</answer></think>", None),
        ("<think>first \\boxed{3}", None),  # thoughts that never end
        ("the template wrote the tag \\boxed{3}</think>\\boxed{4}", "4"),
        ("<think>a</think>\\boxed{4}<think>or \\boxed{5}?", "4"),
        ("\\boxed{5} and then \\boxed{}", "5"),  # an empty box states nothing
        ("\\boxed {5}", "5"),
        ("Because.\nAnswer：5", "5"),
        ("7", None),  # no whole-response fallback
        ("", None),
    ],
)
def test_extraction(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("<think>\\boxed{3}</think> so \\boxed {4}.", "\\boxed {4}."),
        ("<think>\\boxed{3}</think> <answer>4</answer>", "<answer>4</answer>"),
        ("<think>\\boxed{3}</think>\nAnswer: 4", "Answer: 4"),
        ("\\boxed{4} and \\boxed{}", "\\boxed{4} and \\boxed{}"),
        ("<think>\\boxed{3}</think>", None),
    ],
)
def test_where_the_answer_that_is_read_begins(text: str, start: str | None) -> None:
    place = answer_start(text)
    assert (None if place is None else text[place:]) == start


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("<think>red is 7</think>\\boxed{7}", True),
        ("<think></think>The answer is $\\boxed{7}$.\n", True),
        ("<think>a</think>\\boxed{a / b}", True),
        ("<think>\\boxed{1}</think>\\boxed{7}", True),
        (" <think>a</think>\\boxed{7}", False),  # has to begin with the tag
        ("< think >a</ think >\\boxed{7}", False),
        ("<think>a\\boxed{7}", False),  # unclosed
        ("<think>\\boxed{7}</think>", False),  # nothing after the thought
        ("<think>a</think>\\boxed{7", False),
        ("<think>a</think>\\boxed{}", False),
        ("<think>a</think>\\boxed{7} is it", False),
        ("<think>a</think>\\boxed{7},", True),
        ("<think>a</think>**\\boxed{7}**\n", True),
        ("<think>a</think>\\[\\boxed{7}\\]", True),
        ("<think>a</think><think>b</think>\\boxed{7}", False),
        ("<think><think>a</think>\\boxed{7}", False),
        ("<think>a</think></think>\\boxed{7}", False),
        ("\\boxed{7}", False),
        ("", False),
    ],
)
def test_think_boxed(text: str, good: bool) -> None:
    assert is_well_formed(text, "think_boxed") is good


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("<answer>7</answer>", True),
        ("<think>a</think>\n<answer>7</answer> ", True),
        ("<answer>7", False),
        ("<answer> </answer>", False),
        ("<answer>7</answer><answer>8</answer>", False),
        ("</answer>7<answer>", False),
        ("\\boxed{7}", False),
    ],
)
def test_answer_tag(text: str, good: bool) -> None:
    assert is_well_formed(text, "answer_tag") is good


def test_an_unknown_format_is_an_error() -> None:
    with pytest.raises(ValueError, match="xml"):
        is_well_formed("", "xml")


@pytest.mark.parametrize(
    "piece", ["\\boxed{", "<answer>", "{", "answer:", "</answer>", "Answer: *"]
)
def test_repetition_up_to_the_limit_costs_linear_time(piece: str) -> None:
    """Repeated opening tags are what a policy that hacks its reward writes."""
    text = piece * (400_000 // len(piece))
    start = time.perf_counter()
    extract_answer(text)
    is_well_formed("<think></think>" + text, "think_boxed")
    is_well_formed(text, "answer_tag")
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("<Focus><think>a</think>\\boxed{1}", True),
        ("<Focus> <think>a</think>\\boxed{1}", True),
        ("<Focus>\n<Focus> <think>a</think>\\boxed{1}", True),
        ("<think>a</think>\\boxed{1}", True),
        (" <think>a</think>\\boxed{1}", False),
        ("x<Focus><think>a</think>\\boxed{1}", False),
        ("<Focus>x<think>a</think>\\boxed{1}", False),
        ("<Other><think>a</think>\\boxed{1}", False),
        ("<Focus>", False),
    ],
)
def test_emitted_tokens_may_stand_before_the_format(text, good):
    assert is_well_formed(text, "think_boxed", ("<Focus>", "<.*>")) is good
    assert is_well_formed(text, "think_boxed") is (good and "<Focus>" not in text)


def test_the_format_reward_knows_what_may_be_emitted():
    def value(emits):
        return Format().values(
            Scored(
                texts=["<Focus><think>a</think>\\boxed{1}"],
                lengths=[5],
                finished=[True],
                items=[],
                verdicts=[],
                max_response_length=9,
                emits=emits,
            )
        )

    assert value(("<Focus>",)) == [1.0]
    assert value(()) == [0.0]


@pytest.mark.parametrize(
    ("text", "response_format", "ends"),
    [
        ("<think>a</think> \\boxed{7}", "think_boxed", True),
        ("<think>a</think> \\boxed{\\frac{1}{2}}", "think_boxed", True),
        ("<think>a</think> \\boxed{\\frac{1}{2}", "think_boxed", False),
        ("<think>a</think> \\boxed{ }", "think_boxed", False),
        ("<think>a</think> \\boxed{7}.", "think_boxed", True),  # one token may be `}.`
        ("<think>a \\boxed{7}", "think_boxed", False),
        ("\\boxed{7}", "think_boxed", False),
        ("<think>\\boxed{1}</think> {x}", "think_boxed", False),
        ("<answer>7</answer>", "answer_tag", True),
        ("<think>a</think><answer> </answer>", "answer_tag", False),
        ("<answer>7</answer>\n", "answer_tag", True),
        ("7</answer>", "answer_tag", False),
        ("", "answer_tag", False),
    ],
)
def test_where_a_response_states_its_answer(text, response_format, ends):
    assert states_answer(text, response_format) is ends


@given(st.text(st.sampled_from("ab{}\\</>"), max_size=12))
def test_what_states_its_answer_is_read_as_that_answer(inside):
    text = f"<think>a</think>\\boxed{{{inside}}}"
    ends = [end for end in range(len(text) + 1) if states_answer(text[:end], "think_boxed")]
    if ends:
        assert extract_answer(text[: ends[0]]) is not None
        assert is_well_formed(text[: ends[0]], "think_boxed") or "think>" in inside


def test_a_thought_that_the_prompt_has_begun_belongs_to_the_response():
    plain = Scored(
        texts=["I see 5.\n</think>\n\n\\boxed{5}", "\\boxed{5}"],
        lengths=[5, 5],
        finished=[True, True],
        items=[],
        verdicts=[],
        max_response_length=9,
    )
    assert Format().values(plain) == [0.0, 0.0]
    assert Format().values(dataclasses.replace(plain, opening="<think>")) == [1.0, 0.0]
