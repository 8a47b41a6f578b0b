"""Evaluations of finished runs as units of their own: failed, running, orphaned, shared."""

from __future__ import annotations

import json

import pytest

from tests.sweeps.conftest import Nobody
from tests.sweeps.fabricate import fail_evaluation, score
from vexp.runs.store import RunStore
from vexp.sweeps.launch import launch
from vexp.sweeps.plan import make_plan
from vexp.sweeps.reader import read_sweep
from vexp.sweeps.show import evaluations_data, plan_data
from vexp.sweeps.status import failures, progress
from vexp.sweeps.watch import settled

TWO = "rows: {a: []}\nseeds: [1, 2]"


@pytest.fixture
def broken(plan, fabricate, store):
    """Two finished runs; the evaluation of the first one failed."""
    first, second = (run.training.run for run in plan(TWO).runs)
    fabricate.done(first, evaluate=False)
    fabricate.done(second)
    fail_evaluation(store, first, ValueError("no such benchmark 7"))
    return plan(TWO)


def test_a_failed_evaluation_is_shown_with_traceback_and_log(broken):
    assert [unit.state for run in broken.runs for unit in run.units.declared.values()] == [
        "failed",
        "done",
    ]
    assert broken.counts()["done"] == 2
    assert evaluations_data(broken)["failed"] == 1
    assert not broken.complete
    (group,) = failures(broken.runs)
    assert group.runs == ("evaluation heldout of a seed=1",)
    assert "ValueError" in group.signature
    assert group.log.is_file()
    assert any("no such benchmark" in line for line in group.traceback)
    assert progress(broken)[0].remark == "evaluation failed: heldout"
    assert settled(broken)


def test_only_a_retry_tries_a_failed_evaluation_again(broken, plan, store):
    assert launch(broken, Nobody()).pending == 0
    assert not plan(TWO).state.queue()[0].evaluate
    assert launch(plan(TWO), Nobody(), retry_failed=True).pending == 1
    assert plan(TWO).state.queue()[0].evaluate
    score(store, broken.runs[0].training.run, {"accuracy": 0.5})
    assert plan(TWO).complete


def test_evaluations_that_nothing_declares_any_more_are_counted_and_kept(plan, fabricate):
    more = f"evaluation: {{dev: {{name: heldout, split: dev}}}}\n{TWO}"
    for run in plan(more).runs:
        fabricate.done(run.training.run)
    launch(plan(more), Nobody())
    assert plan(more).orphaned_evaluations == 0
    assert plan(TWO).complete
    assert plan(TWO).orphaned_evaluations == 2
    assert plan("rows: {a: []}\nseeds: [1]").orphaned_evaluations == 1 + 2  # with its orphan's


def test_runs_that_another_sweep_has_are_not_run_again_and_it_is_said(sweep, plan, fabricate):
    launch(plan(TWO), Nobody())
    for run in plan(TWO).runs:
        fabricate.done(run.training.run)
    text = "rows: {mine: [seed=1], other: [seed=2], new: [seed=3]}"
    other = make_plan(read_sweep(sweep(text, "other")))
    assert other.shared_with() == {"small": 2}
    assert other.counts()["new"] == 1
    assert json.loads(json.dumps(plan_data(other, [])))["shared_with"] == {"small": 2}
    assert launch(other, Nobody()).pending == 1
    again = make_plan(read_sweep(sweep(text, "other")))
    assert again.shared_with() == {}  # this sweep has launched them itself now
    assert len(RunStore(other.state.results_dir).names()) == 3
