"""What every registered verifier promises, judged as in training: in a worker if it may hang."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vexp.registry import REGISTRY
from vexp.verifier.base import Status, Verdict
from vexp.verifier.pool import close_all, judge

# A gold answer that the verifier can read, and another answer.
ANSWERS = {"multiple_choice": ("B", "C")}
TEXTS = st.text(max_size=40)


@pytest.fixture(scope="module", params=REGISTRY.names("verifier"))
def verifier(request):
    yield REGISTRY.get("verifier", request.param)()
    close_all()


@pytest.fixture(scope="module")
def answers(verifier):
    return ANSWERS.get(verifier.name, ("12", "13"))


def boxed(answer):
    return f"<think>so</think>\\boxed{{{answer}}}"


def test_the_gold_answer_in_a_box_is_right(verifier, answers):
    gold, _ = answers
    assert judge(verifier, [boxed(gold)], [gold]) == [Verdict(1.0, gold)]


def test_another_answer_is_wrong(verifier, answers):
    gold, other = answers
    found = judge(verifier, [boxed(other), boxed(gold)], [gold, other])
    assert found == [Verdict(0.0, other), Verdict(0.0, gold)]


def test_a_response_without_an_answer_is_wrong_even_if_it_names_the_gold(verifier, answers):
    gold, _ = answers
    responses = ["", gold, f"it is {gold}", "\\boxed{}", f"\\boxed{{{gold}", f"<answer>{gold}"]
    found = judge(verifier, responses, [gold] * len(responses))
    assert found == [Verdict(0.0, None, "no_answer")] * len(responses)


def test_a_gold_answer_that_cannot_be_read_is_nobodys_fault(verifier, answers):
    assert judge(verifier, [boxed(answers[0])], [""]) == [Verdict(0.0, answers[0], "bad_gold")]


@given(response=TEXTS | TEXTS.map(boxed), gold=TEXTS)
@settings(max_examples=50, deadline=None)
def test_any_text_gets_a_verdict(verifier, answers, response, gold):
    for verdict in judge(verifier, [response, response], [gold, answers[0]]):
        assert verdict.correct in (0.0, 1.0)
        assert verdict.status in get_args(Status)
        assert verdict.status == "ok" or verdict.correct == 0.0
        assert verdict.extracted is not None or verdict.status != "ok"


@given(gold=TEXTS)
@settings(max_examples=50, deadline=None)
def test_any_gold_answer_that_can_be_read_is_right_as_an_answer(verifier, gold):
    verdict = judge(verifier, [boxed(gold)], [gold])[0]
    if verdict.status == "ok" and verdict.extracted == gold.strip():
        assert verdict.correct == 1.0


def test_a_verdict_does_not_depend_on_earlier_ones(verifier, answers):
    gold, other = answers
    responses = [boxed(gold), boxed(other), "", boxed("\\frac{1}{2}"), boxed("a cat")]
    golds = [gold] * len(responses)
    found = judge(verifier, responses, golds)
    assert judge(verifier, responses[::-1], golds) == found[::-1]
    assert [judge(verifier, [response], [gold])[0] for response in responses] == found
