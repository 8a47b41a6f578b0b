"""Mean, spread and paired differences against NumPy and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexp.tables.stats import paired_difference, summarize

values = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12)


def test_by_hand():
    found = summarize([0.50, 0.54])
    assert found.n == 2
    assert found.mean == pytest.approx(0.52, abs=1e-15)
    assert found.sd == pytest.approx(0.04 / math.sqrt(2), abs=1e-15)


def test_one_value_has_no_spread_and_none_has_no_summary():
    assert summarize([0.3]).sd is None
    assert summarize([0.3]).mean == 0.3
    assert summarize([]) is None


@given(values)
def test_agrees_with_numpy(numbers):
    found = summarize(numbers)
    assert found.mean == pytest.approx(np.mean(numbers), rel=1e-9, abs=1e-9)
    assert found.sd == pytest.approx(np.std(numbers, ddof=1), rel=1e-9, abs=1e-9)


@given(values, st.randoms())
def test_order_changes_not_a_bit(numbers, random):
    shuffled = random.sample(numbers, len(numbers))
    assert summarize(numbers) == summarize(shuffled)


def test_differences_are_paired_by_key():
    assert paired_difference({1: 3.0, 2: 5.0}, {1: 1.0, 2: 2.0}) == 2.5
    assert paired_difference({1: 3.0, 2: 9.0}, {1: 1.0, 3: 100.0}) == 2.0
    assert paired_difference({1: 3.0}, {2: 1.0}) is None
