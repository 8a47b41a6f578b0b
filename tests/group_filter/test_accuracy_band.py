"""MM-Eureka's filter: an inclusive band, from a step on, and never a second batch."""

from __future__ import annotations

import pytest

from tests.train.test_collect import SIZE, collected
from vexp.registry import REGISTRY
from vexp.spec.resolve import resolve
from vexp.train import metrics


def band(**fields):
    return REGISTRY.get("group_filter", "accuracy_band")(**fields)


def group(right, size):
    return [1.0] * right + [0.0] * (size - right)


def test_both_bounds_are_inside():
    groups = [group(right, 10) for right in (0, 1, 5, 9, 10)]
    assert band().keep(groups, 1) == [False, True, True, True, False]


@pytest.mark.parametrize("right", range(9))
def test_of_eight_responses_only_all_and_none_are_outside(right):
    assert band().keep([group(right, 8)], 1) == [0 < right < 8]


def test_one_in_twenty_is_outside():
    assert band().keep([group(1, 20), group(19, 20)], 1) == [False, False]


def test_before_its_first_step_every_group_trains():
    late = band(start_step=3)
    groups = [group(0, 4), group(2, 4)]
    assert [late.keep(groups, step) for step in (1, 2, 3, 4)] == [
        [True, True],
        [True, True],
        [False, True],
        [False, True],
    ]


@pytest.mark.parametrize(("low", "high", "wrong"), [(0.9, 0.1, 1), (0.5, 0.5, 0), (0.1, 0.9, 0)])
def test_a_band_that_is_empty_is_a_problem(low, high, wrong):
    assert len(list(band(low=low, high=high).problems(None))) == wrong


def test_the_batch_shrinks_and_nothing_is_sampled_again():
    run, _, found, experience = collected([0, 2, SIZE], "group_filter=accuracy_band")
    assert len(run.engine.calls) == 1
    assert len(experience) == SIZE
    assert experience.prompts.numbers == (1,)
    assert metrics.of_rollouts(found, SIZE)["groups_kept"] == 1


def test_a_step_without_a_group_in_the_band_has_no_experience():
    assert collected([0, SIZE], "group_filter=accuracy_band")[3] is None


def test_the_step_reaches_the_filter():
    _, _, _, experience = collected(
        [0, 2, SIZE], "group_filter=accuracy_band", "group_filter.start_step=2"
    )
    assert len(experience) == 3 * SIZE


def test_the_overlay_is_the_papers_setting():
    run = resolve(["experiment=mm_eureka"])
    assert run.group_filter == band(low=0.1, high=0.9)
    assert (run.algorithm.name, run.algorithm.kl_coef) == ("grpo", 0.0)
    assert run.algorithm.aggregation == "seq-mean-token-mean"
