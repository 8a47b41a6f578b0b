"""Tests against SciPy and statsmodels, and against simulated data without a true difference."""

from __future__ import annotations

import math
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests

from vexp.tables.significance import (
    MIN_SEEDS,
    holm,
    mcnemar,
    paired_bootstrap,
    paired_t,
    stars,
    welch_t,
)
from vexp.tables.stats import summarize

scores = st.floats(0, 1)
pairs = st.lists(st.tuples(scores, scores), min_size=3, max_size=12)


@given(pairs)
def test_paired_t_agrees_with_scipy(found):
    ours, theirs = zip(*found, strict=True)
    assume(np.std(np.subtract(ours, theirs)) > 1e-6)
    ours_test = paired_t(ours, theirs)
    expected = stats.ttest_rel(ours, theirs)
    assert ours_test.p == pytest.approx(expected.pvalue, rel=1e-9, abs=1e-9)
    assert ours_test.statistic == pytest.approx(expected.statistic, rel=1e-9, abs=1e-9)
    assert ours_test.mean == pytest.approx(np.mean(np.subtract(ours, theirs)), abs=1e-12)


runs = st.lists(scores, min_size=2, max_size=10)


@given(runs, runs)
def test_welch_agrees_with_scipy(ours, theirs):
    assume(min(np.std(ours), np.std(theirs)) > 1e-6)
    found = welch_t(summarize(ours), summarize(theirs))
    expected = stats.ttest_ind(ours, theirs, equal_var=False)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9, abs=1e-12)
    assert found.statistic == pytest.approx(expected.statistic, rel=1e-9, abs=1e-9)
    assert found.n == min(len(ours), len(theirs))


@pytest.mark.parametrize(
    ("ours", "theirs"), [([0.5], [0.1, 0.2]), ([0.5, 0.5], [0.5, 0.5]), ([0.7, 0.7], [0.1, 0.1])]
)
def test_without_a_spread_two_checkpoints_are_not_tested(ours, theirs):
    assert welch_t(summarize(ours), summarize(theirs)) is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_agrees_with_statsmodels(p_values):
    with patch("gc.collect"):  # statsmodels collects at each call, half a second in a full process
        expected = multipletests(p_values, method="holm")[1]
    assert holm(p_values) == pytest.approx(list(expected), abs=1e-9)


def test_holm_leaves_the_untested_out_of_the_family():
    assert holm([None, 0.02, None, 0.03]) == [None, 0.04, None, 0.04]
    assert holm([None]) == [None]


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60))
def test_mcnemar_agrees_with_statsmodels(found):
    ours = {str(i): float(a) for i, (a, _) in enumerate(found)}
    theirs = {str(i): float(b) for i, (_, b) in enumerate(found)}
    table = np.zeros((2, 2))
    for a, b in found:
        table[a, b] += 1
    assert mcnemar(ours, theirs).p == pytest.approx(
        reference_mcnemar(table, exact=True).pvalue, abs=1e-9
    )


def test_bootstrap_covers_what_scipys_covers():
    generator = np.random.default_rng(3)
    ours = {str(i): float(v) for i, v in enumerate(generator.integers(0, 2, 400))}
    theirs = {str(i): float(v) for i, v in enumerate(generator.integers(0, 2, 400))}
    found = paired_bootstrap(ours, theirs)
    differences = [ours[key] - theirs[key] for key in sorted(ours)]
    expected = stats.bootstrap(
        (differences,), np.mean, method="percentile", n_resamples=10_000, rng=1
    ).confidence_interval
    assert found.mean == pytest.approx(np.mean(differences), abs=1e-12)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.005)
    assert found == paired_bootstrap(ours, theirs)


def test_two_seeds_are_never_tested():
    assert paired_t([0.9, 0.8], [0.1, 0.2]) is None
    assert paired_t([0.9], [0.1]) is None
    assert paired_t([], []) is None


def test_the_same_difference_at_every_seed_is_not_evidence():
    # SciPy answers p = 0 here; three benchmarks of 200 questions agree to the question by chance
    assert paired_t([0.505, 0.515, 0.525], [0.5, 0.51, 0.52]) is None
    assert paired_t([0.5, 0.6, 0.7], [0.5, 0.6, 0.7]).p == 1.0


def test_other_questions_and_partial_verdicts_are_refused():
    with pytest.raises(ValueError, match="same questions"):
        mcnemar({"a": 1.0}, {"b": 1.0})
    with pytest.raises(ValueError, match="same questions"):
        paired_bootstrap({}, {})
    with pytest.raises(ValueError, match="partial"):
        mcnemar({"a": 0.5}, {"a": 1.0})


@pytest.mark.parametrize(
    ("p", "text"), [(None, ""), (0.05, ""), (0.049, "*"), (0.01, "*"), (0.009, "**"), (1e-4, "***")]
)
def test_stars(p, text):
    assert stars(p) == text


@pytest.mark.parametrize("seeds", [1, 3, 5])
@pytest.mark.parametrize("noise", [0.0, 0.01, 0.03])
def test_without_a_true_difference_few_columns_earn_a_star(noise, seeds):
    """5,000 tables of a baseline and three methods that are all equal: at most 5 % ± 1 % starred.

    Every run has its own true accuracy (seed noise) and answers 500 questions by it.
    """
    generator = np.random.default_rng([seeds, int(noise * 1000)])
    repetitions, rows, questions = 5_000, 4, 500
    true = np.clip(0.6 + noise * generator.standard_normal((repetitions, rows, seeds)), 0, 1)
    measured = generator.binomial(questions, true) / questions
    starred = 0
    for baseline, *methods in measured:
        tests = [paired_t(method, baseline) for method in methods]
        adjusted = holm([test.p if test else None for test in tests])
        starred += any(stars(p) for p in adjusted)
    share = starred / repetitions
    assert share <= 0.06
    assert (share == 0) == (seeds < MIN_SEEDS)
    assert math.isfinite(share)
