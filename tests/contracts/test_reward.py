"""What every registered reward term promises."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import pytest

from vexp.dataset.base import Item
from vexp.registry import REGISTRY
from vexp.response.format import ResponseFormat
from vexp.reward.base import ObservedReward, Scored
from vexp.verifier.base import Verdict

# Text, length, finished, verdict of each response.
ROWS = [
    ("<think>a</think>\\boxed{1}", 10, True, Verdict(1.0, "1")),
    ("<think>b</think>\\boxed{2}", 19, True, Verdict(0.0, "2")),
    ("<answer>1</answer>", 4, True, Verdict(1.0, "1")),
    ("<think>and so on", 24, False, Verdict(0.0, None, "no_answer")),
    ("", 1, True, Verdict(0.0, None, "no_answer")),
    ("日本 \\boxed{1}", 22, True, Verdict(0.0, None, "timeout")),
]
EVERY_ROW = tuple(range(len(ROWS)))


@pytest.fixture(params=REGISTRY.names("reward"))
def term(request):
    return REGISTRY.get("reward", request.param)()


@pytest.fixture(params=get_args(ResponseFormat))
def response_format(request):
    return request.param


def scored(response_format, rows=EVERY_ROW):
    chosen = [ROWS[row] for row in rows]
    return Scored(
        texts=[text for text, *_ in chosen],
        lengths=[length for _, length, *_ in chosen],
        finished=[finished for *_, finished, _ in chosen],
        items=[Item(id=f"a/{row // 2}", question="b", answer="1") for row in rows],
        verdicts=[verdict for *_, verdict in chosen],
        max_response_length=24,
        response_format=response_format,
    )


def test_one_finite_number_per_response(term, response_format):
    values = term.values(scored(response_format))
    assert len(values) == len(ROWS)
    assert all(math.isfinite(value) for value in values)
    assert isinstance(term, ObservedReward) or len(set(values)) > 1


def test_a_batch_without_responses_has_no_rewards(term, response_format):
    assert term.values(scored(response_format, [])) == []


def test_the_order_of_responses_does_not_matter(term, response_format):
    values = term.values(scored(response_format))
    order = [3, 0, 5, 1, 4, 2]
    assert term.values(scored(response_format, order)) == [values[row] for row in order]


def test_other_responses_do_not_matter(term, response_format):
    values = term.values(scored(response_format))
    for row, value in enumerate(values):
        assert term.values(scored(response_format, [row])) == [value]
        assert term.values(scored(response_format, [row, row])) == [value, value]


def test_the_weight_is_left_to_the_sum(term, response_format):
    batch = scored(response_format)
    assert replace(term, weight=-3.0).values(batch) == term.values(batch)
