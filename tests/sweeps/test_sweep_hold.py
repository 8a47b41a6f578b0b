"""A sweep whose first runs all fail alike holds the rest until somebody says otherwise."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.sweeps.conftest import Nobody
from vexp.records import FailureRecord
from vexp.sweeps.circuit_breaker import CircuitBreaker, held, signature
from vexp.sweeps.launch import Failed, launch
from vexp.sweeps.watch import settled
from vexp.sweeps.worker import work

FAKE = [sys.executable, str(Path(__file__).with_name("fake_run.py"))]
SIX = "rows: {a: {stages: [rl]}}\nseeds: [1, 2, 3, 4, 5, 6]"


@pytest.fixture
def serve(plan, monkeypatch):
    """A function that launches a sweep, works it off in this process, and returns its plan."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))

    def make(text=SIX, **settings):
        before = plan(text)
        launch(before, Nobody(), **settings)
        work(before.state, 1, command=FAKE)
        return plan(text)

    return make


def fail(monkeypatch, *seeds):
    for seed in range(1, 7):
        monkeypatch.setenv(f"FAKE_{seed}", "fails" if seed in seeds else "done")


def counts(plan):
    found = plan.counts()
    return found["done"], found["failed"], found["new"]


def test_three_first_failures_alike_hold_the_rest(serve, monkeypatch):
    fail(monkeypatch, 1, 2, 3, 4, 5, 6)
    plan = serve()
    assert counts(plan) == (0, 3, 3)
    assert plan.held == held(plan.state, plan.state.queue())
    assert "RuntimeError" in plan.held
    assert settled(plan)
    assert counts(serve()) == (0, 3, 3)  # a plain launch starts nothing more
    assert launch(plan, Nobody()).pending == 0
    assert launch(plan, Nobody()).held == plan.held


def test_retry_tries_them_again_and_goes_on_if_they_work(serve, monkeypatch):
    fail(monkeypatch, 1, 2, 3, 4, 5, 6)
    serve()
    plan = serve(retry_failed=True)
    assert counts(plan) == (0, 3, 3)  # failed again: held again
    assert [run.status.attempts for run in plan.runs[:4] if run.status] == [2, 2, 2, 0]
    fail(monkeypatch)
    plan = serve(retry_failed=True)
    assert counts(plan) == (6, 0, 0)
    assert plan.held is None


def test_release_goes_on_with_the_others_for_good(serve, monkeypatch):
    fail(monkeypatch, 1, 2, 3)
    assert counts(serve()) == (0, 3, 3)
    assert counts(serve(release=True)) == (3, 3, 0)
    fail(monkeypatch, 1, 2, 3, 4, 5, 6)
    plan = serve(SIX.replace("4, 5, 6", "4, 5, 6, 7, 8, 9"))
    assert plan.held is None


def test_one_success_or_another_signature_holds_nothing(serve, monkeypatch):
    fail(monkeypatch, 2, 3, 4, 5, 6)
    assert counts(serve()) == (1, 5, 0)


def test_different_failures_hold_nothing(plan, fabricate):
    runs = [run.training.run for run in plan(SIX).runs]
    for run in runs[:3]:
        fabricate.failed(run, RuntimeError("out of luck 1"))
    assert plan(SIX).held is not None
    fabricate.failed(runs[3], ValueError("something else"))
    assert plan(SIX).held is None


@pytest.mark.parametrize(("after", "expected"), [(1, (0, 1, 5)), (5, (0, 5, 1)), (0, (0, 6, 0))])
def test_how_many_is_set_in_the_file(serve, monkeypatch, after, expected):
    fail(monkeypatch, 1, 2, 3, 4, 5, 6)
    assert counts(serve(f"{SIX}\nhold_after: {after}")) == expected


def test_what_was_done_before_the_launch_counts_as_success(serve, plan, fabricate, monkeypatch):
    fabricate.done(plan(SIX).runs[5].training.run)
    fail(monkeypatch, 1, 2, 3, 4, 5)
    assert counts(serve()) == (1, 5, 0)


def test_a_retry_may_be_of_some_kinds_or_signatures(plan, fabricate):
    runs = [run.training.run for run in plan(SIX).runs]
    fabricate.failed(runs[0], MemoryError("out of memory"))
    fabricate.failed(runs[1], ValueError("bad 7"))
    fabricate.failed(runs[2], ValueError("bad 8"))
    asked = launch(plan(SIX), Nobody(), retry_failed=True, only=Failed(kinds=("oom",)))
    assert asked.pending == 4
    until = {e.label: e.retry_until for e in plan(SIX).state.queue()}
    assert [until[f"a seed={seed}"] for seed in (1, 2, 3)] == [1, None, None]
    launch(plan(SIX), Nobody(), retry_failed=True, only=Failed(signature="ValueError"))
    until = {e.label: e.retry_until for e in plan(SIX).state.queue()}
    assert [until[f"a seed={seed}"] for seed in (1, 2, 3)] == [1, 1, 1]


def test_numbers_do_not_tell_signatures_apart():
    one = FailureRecord(signature="ValueError at x.py:3", message="step 17 of 0x7f: 1.5e-3")
    other = FailureRecord(signature="ValueError at x.py:3", message="step 18 of 0x80: 2.5e-4")
    assert signature(one) == signature(other)
    assert CircuitBreaker().signature([]) is None
