"""The weighted sum of the reward terms."""

from __future__ import annotations

import pytest

from vexp.errors import VexpError
from vexp.reward._total import mean, reward
from vexp.reward.base import RewardTerm, Scored
from vexp.verifier.base import Verdict


class Fixed(RewardTerm):
    """Returns given values."""

    name = "fixed"
    kind = "reward"

    def __init__(self, values, weight=1.0):
        object.__setattr__(self, "given", values)
        object.__setattr__(self, "weight", weight)

    def values(self, scored):
        return self.given


def scored(verdicts):
    n = len(verdicts)
    return Scored(
        texts=[f"text {i}" for i in range(n)],
        lengths=[3] * n,
        finished=[True] * n,
        items=[None] * n,
        verdicts=verdicts,
        max_response_length=8,
    )


VERDICTS = [Verdict(1.0), Verdict(0.0, status="timeout"), Verdict(0.0, status="bad_gold")]


def test_terms_are_weighted_and_added_and_kept_apart():
    terms = {"a": Fixed([1, 0, 1], weight=0.9), "b": Fixed([0.5, 0.5, 0.0], weight=-0.1)}
    found = reward(terms, scored(VERDICTS))
    assert found.total == pytest.approx([0.85, -0.05, 0.9])
    assert found.terms == {"a": [1.0, 0.0, 1.0], "b": [0.5, 0.5, 0.0]}
    assert found.accuracies == [1.0, 0.0, 0.0]
    assert dict(found.statuses) == {"ok": 1, "timeout": 1, "bad_gold": 1}


def test_the_order_of_terms_does_not_change_the_sum():
    parts = {"a": Fixed([0.1] * 3), "b": Fixed([0.2] * 3), "c": Fixed([0.3] * 3)}
    forward = reward(parts, scored(VERDICTS)).total
    backward = reward(dict(reversed(parts.items())), scored(VERDICTS)).total
    assert forward == backward


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_names_the_term_and_the_response(value):
    with pytest.raises(VexpError) as caught:
        reward({"mine": Fixed([0.0, value, 0.0])}, scored(VERDICTS))
    assert "reward.terms.mine (fixed)" in str(caught.value)
    assert "text 1" in str(caught.value)


def test_a_missing_value_is_not_filled_in():
    with pytest.raises(VexpError, match="2 values for 3 responses"):
        reward({"mine": Fixed([0.0, 1.0])}, scored(VERDICTS))


def test_the_mean_does_not_depend_on_the_order():
    values = [1e16, 1.0, -1e16, 3.0]
    assert mean(values) == mean(sorted(values)) == 1.0
