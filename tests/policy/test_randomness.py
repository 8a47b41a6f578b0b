"""Random numbers depend on what they are for and on nothing else."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vexp.policy.randomness import derive, uniforms

IDS = st.lists(st.text(max_size=12), min_size=1, max_size=6)


@given(IDS, st.integers(0, 2**40), st.integers(0, 10**6), st.data())
@settings(max_examples=60, deadline=None)
def test_a_row_does_not_depend_on_its_batch(ids, seed, step, data):
    places = data.draw(st.lists(st.integers(0, 99), min_size=len(ids), max_size=len(ids)))
    together = uniforms(seed, "rollout", step, ids, places, 7)
    order = data.draw(st.permutations(range(len(ids))))
    shuffled = uniforms(
        seed, "rollout", step, [ids[i] for i in order], [places[i] for i in order], 7
    )
    assert np.array_equal(shuffled, together[list(order)])
    for row, (item, place) in enumerate(zip(ids, places, strict=True)):
        assert np.array_equal(uniforms(seed, "rollout", step, [item], [place], 7)[0], together[row])


@given(st.integers(0, 50), st.integers(0, 50), st.text(max_size=5))
@settings(max_examples=40, deadline=None)
def test_more_numbers_begin_with_the_same_ones(few, more, item):
    short = uniforms(1, "rollout", 2, [item], [0], few)
    long = uniforms(1, "rollout", 2, [item], [0], few + more)
    assert np.array_equal(long[:, :few], short)


def test_every_argument_counts():
    base = (3, "rollout", 5, ["a"], [0], 4)
    others = [
        (4, "rollout", 5, ["a"], [0], 4),
        (3, "heldout", 5, ["a"], [0], 4),
        (3, "rollout", 6, ["a"], [0], 4),
        (3, "rollout", 5, ["b"], [0], 4),
        (3, "rollout", 5, ["a"], [1], 4),
    ]
    drawn = [uniforms(*arguments)[0, 0] for arguments in [base, *others]]
    assert len(set(drawn)) == len(drawn)


def test_neighbouring_arguments_do_not_run_together():
    assert derive(1, "a", "b") != derive(1, "ab") != derive(1, "a", "", "b")
    assert derive(1, 23) != derive(12, 3) != derive(1, "23")
    assert uniforms(1, "r", 23, ["x"], [4], 1) != uniforms(1, "r", 2, ["3x"], [4], 1)


def test_numbers_are_uniform_and_uncorrelated():
    drawn = uniforms(0, "rollout", 0, [f"item/{i}" for i in range(200)], [0] * 200, 100)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts, _ = np.histogram(drawn, bins=50, range=(0, 1))
    expected = drawn.size / 50
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 85.35  # 0.999 quantile at 49 degrees of freedom
    rows = np.corrcoef(drawn)[np.triu_indices(200, 1)]
    assert np.abs(rows).max() < 0.55
    assert abs(np.corrcoef(drawn[:, :-1].ravel(), drawn[:, 1:].ravel())[0, 1]) < 0.03


def test_numbers_are_the_same_in_every_process():
    """Golden values: another numpy, machine or hash seed must not change a run."""
    script = (
        "from vexp.policy.randomness import *;"
        "print(derive(7, 'order', 3), *uniforms(7, 'rollout', 3, ['t/é'], [2], 3)[0])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == GOLDEN


GOLDEN = [
    "2686603612533747591",
    "0.8880780047261512",
    "0.5295229659028777",
    "0.5154758009661655",
]


def test_derived_seeds_fit_a_torch_generator():
    assert all(0 <= derive(seed, "x") < 2**63 for seed in range(200))


def test_a_missing_place_is_an_error():
    with pytest.raises(ValueError, match="2 item ids, but 1 places"):
        uniforms(0, "rollout", 0, ["a", "b"], [0], 3)
