"""Which groups reach the update."""

from __future__ import annotations

import pytest

from vexp.registry import REGISTRY


def get(name, **fields):
    return REGISTRY.get("group_filter", name)(**fields)


def test_none_keeps_everything_and_never_samples_again():
    keep_all = get("none")
    assert keep_all.keep([[0.0, 0.0], [1.0, 1.0]], 1) == [True, True]
    assert keep_all.max_batches == 1


def test_dynamic_sampling_drops_solved_and_failed_groups():
    groups = [[0.0] * 4, [1.0] * 4, [0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 0.0]]
    assert get("dynamic_sampling").keep(groups, 1) == [False, False, True, True]


def test_the_bounds_are_strict():
    filtered = get("dynamic_sampling", low=0.25, high=0.75)
    assert filtered.keep([[0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 1]], 1) == [False, True, False]


def test_one_right_answer_in_two_hundred_is_below_the_default():
    assert get("dynamic_sampling").keep([[1.0] + [0.0] * 199], 1) == [False]


@pytest.mark.parametrize(("low", "high", "wrong"), [(0.9, 0.1, 1), (0.5, 0.5, 1), (0.1, 0.9, 0)])
def test_bounds_that_no_group_can_pass_are_a_problem(low, high, wrong):
    assert len(list(get("dynamic_sampling", low=low, high=high).problems(None))) == wrong
