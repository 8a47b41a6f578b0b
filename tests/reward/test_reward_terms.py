"""The shipped reward terms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexp.dataset.base import Item
from vexp.errors import ConfigError
from vexp.reward.accuracy import Accuracy
from vexp.reward.base import Scored
from vexp.reward.format import Format
from vexp.reward.overlong import Overlong
from vexp.spec.resolve import resolve
from vexp.verifier.base import Verdict


def scored(texts=("",), lengths=None, correct=None, limit=24, response_format="think_boxed"):
    count = len(lengths or texts)
    return Scored(
        texts=texts if len(texts) == count else [""] * count,
        lengths=lengths or [1] * count,
        finished=[True] * count,
        items=[Item(id="a", question="b", answer="c")] * count,
        verdicts=[Verdict(c) for c in (correct or [0.0] * count)],
        max_response_length=limit,
        response_format=response_format,
    )


def test_accuracy_is_the_verdict() -> None:
    assert Accuracy().values(scored(["a", "b"], correct=[1.0, 0.0])) == [1.0, 0.0]


def test_format_follows_the_run() -> None:
    texts = ["<think>a</think>\\boxed{1}", "<answer>1</answer>", "1"]
    assert Format().values(scored(texts)) == [1.0, 0.0, 0.0]
    assert Format().values(scored(texts, response_format="answer_tag")) == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("length", "value"), [(0, 0), (12, 0), (16, 0), (17, -0.125), (20, -0.5), (24, -1), (30, -1)]
)
def test_overlong_by_hand(length: int, value: float) -> None:
    assert Overlong(buffer=8).values(scored(lengths=[length])) == [value]


@given(st.integers(1, 100), st.integers(1, 100), st.integers(0, 120), st.floats(0, 3))
def test_overlong_equals_the_papers_three_cases(limit, buffer, length, factor) -> None:
    buffer = min(buffer, limit)
    if length <= limit - buffer:
        expected = 0.0
    elif length <= limit:
        expected = ((limit - buffer) - length) / buffer
    else:
        expected = -1.0
    term = Overlong(buffer=buffer, factor=factor)
    assert term.values(scored(lengths=[length], limit=limit)) == [factor * expected]


def test_a_buffer_beyond_the_limit_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(["+reward.terms.overlong=overlong", "reward.terms.overlong.buffer=25"])
    text = str(caught.value)
    assert "buffer (25) exceeds rollout.max_response_length (24)" in text
    assert "reward.terms.overlong" in text
    resolve(["+reward.terms.overlong=overlong"])
