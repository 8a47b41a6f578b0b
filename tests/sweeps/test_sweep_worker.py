"""What a worker chooses, and what it makes of runs that end badly."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.sweeps.conftest import Nobody
from vexp.files import read_json, read_lines
from vexp.runs.claim import attempt_folder
from vexp.sweeps.launch import launch
from vexp.sweeps.worker import next_entry, work

FAKE = [sys.executable, str(Path(__file__).with_name("fake_run.py"))]
SEEDS = "rows: {a: {stages: [rl]}}\nseeds: [1, 2, 3]"


@pytest.fixture
def serve(plan, monkeypatch):
    """A function that launches a sweep and works it off in this process; the plan afterwards."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))

    def make(text, retry_failed=False, **actions):
        for seed, action in actions.items():
            monkeypatch.setenv(f"FAKE_{seed.removeprefix('seed')}", action)
        before = plan(text)
        launch(before, Nobody(), retry_failed=retry_failed)
        work(before.state, 1, command=FAKE)
        return plan(text)

    return make


def started(plan):
    return [row["run"] for row in read_lines(plan.state.results_dir / "started.jsonl")[0]]


def test_a_worker_does_everything_once_and_ends(serve):
    plan = serve(SEEDS)
    assert plan.complete
    assert started(plan) == [run.name for run in plan.runs]
    assert plan.state.ends()[plan.runs[0].name].exit_code == 0


def test_a_crashing_run_is_recorded_and_does_not_stop_the_worker(serve, capfd):
    plan = serve(SEEDS, seed1="exit 7")
    assert [run.state for run in plan.runs] == ["failed", "done", "done"]
    status = plan.runs[0].status
    assert status.failure.error == "Crash"
    assert "exit code 7" in status.failure.message
    assert status.failure.kind == "code"


def test_a_run_that_records_its_failure_is_left_at_that(serve):
    plan = serve(SEEDS, seed2="fails")
    assert [run.state for run in plan.runs] == ["done", "failed", "done"]
    assert plan.runs[1].status.failure.error == "RuntimeError"
    assert len(started(plan)) == 3


def test_failed_runs_are_run_again_only_when_asked_and_once(serve):
    serve(SEEDS, seed2="fails")
    plan = serve(SEEDS, seed2="fails")
    assert len(started(plan)) == 3
    plan = serve(SEEDS, retry_failed=True, seed2="fails")
    assert len(started(plan)) == 4
    assert plan.runs[1].state == "failed"
    plan = serve(SEEDS, retry_failed=True, seed2="done")
    assert plan.complete


def test_a_killed_run_goes_on_at_the_next_launch(serve):
    plan = serve(SEEDS, seed3="killed")
    assert [run.state for run in plan.runs] == ["done", "done", "stopped"]
    assert plan.state.ends()[plan.runs[2].name].exit_code == -9
    plan = serve(SEEDS, seed3="done")
    assert plan.complete
    assert len(started(plan)) == 4


def test_a_stuck_run_is_tried_again_as_often_as_allowed(serve):
    launcher = "\nlauncher: {stuck_after_min: 0.05, retry: {infra: 1}}"
    plan = serve(SEEDS + launcher, seed2="slow")
    assert [run.state for run in plan.runs] == ["done", "failed", "done"]
    assert started(plan).count(plan.runs[1].name) == 2
    assert plan.runs[1].status.failure.kind == "infra"
    assert "no progress" in plan.runs[1].status.failure.message


def test_a_run_that_another_process_works_on_is_passed_over(serve, plan, fabricate):
    fabricate.running(plan(SEEDS).runs[0].training.run)
    after = serve(SEEDS)
    assert [run.state for run in after.runs] == ["running", "done", "done"]
    assert len(started(after)) == 2


def test_missing_evaluations_of_a_finished_run_are_work(serve, plan, fabricate):
    text = "rows: {a: {stages: [rl]}}"
    fabricate.done(plan(text).runs[0].training.run)
    assert serve(text).complete
    wider = f"base: [evaluator.dev=heldout, evaluator.dev.split=dev]\n{text}"
    after = serve(wider)
    assert after.complete
    assert len(started(after)) == 1
    # its folder was made without that evaluator, so the sweep keeps the config to run it under
    assert read_json(after.state.config(after.runs[0].name))["evaluator"].keys() == {
        "heldout",
        "dev",
    }


def test_a_worker_leaves_when_its_slot_is_taken(plan):
    from vexp.sweeps.worker_slots import Slot

    before = plan(SEEDS)
    launch(before, Nobody())
    with Slot(before.state.workers, 1).held():
        work(before.state, 1, command=["/bin/false"])
    assert plan(SEEDS).counts()["new"] == 3


def test_runs_that_would_wait_for_a_stage_being_built_come_last(plan, fabricate):
    text = """
base: ['warm_start.seed=${seed}']
rows: {a: [], b: [algorithm=dapo], c: [algorithm=gspo]}
seeds: [1, 2]
"""
    before = plan(text)
    launch(before, Nobody())
    names = {run.training.label: run.name for run in before.runs}
    labels = {name: label for label, name in names.items()}

    def choice(*taken):
        entry = next_entry(before.state, (), [names[label] for label in taken])
        return entry and labels[entry.run]

    assert choice() == "a seed=1"
    assert choice("a seed=1") == "a seed=2"
    for run in before.runs[:2]:  # both are training; one has built its warm start
        fabricate.running(run.training.run)
    assert choice("a seed=1", "a seed=2") == "b seed=1"
    (before.state.results_dir / "stages" / before.runs[1].training.shares).mkdir(parents=True)
    assert choice("a seed=1", "a seed=2") == "b seed=2"


def test_a_crash_keeps_the_end_of_its_output(plan, fabricate):
    from vexp.runs.stop import StopRequest
    from vexp.runs.store import RunFolder
    from vexp.sweeps.worker import _Worker
    from vexp.sweeps.worker_slots import Slot

    before = plan("rows: {a: []}")
    launch(before, Nobody())
    slot = Slot(before.state.workers, 1)
    with slot.held() as hold:
        slot.log.write_text("an earlier run\nSegmentation fault\n")
        worker = _Worker(before.state, slot, hold, StopRequest(), ["/bin/false"])
        run = RunFolder(before.state.results_dir / "runs" / before.runs[0].name)
        worker._record_failure(run, -11, len("an earlier run\n"))
    status = plan("rows: {a: []}").runs[0].status
    assert status.failure.signature == "process ended: killed by SIGSEGV"
    log = attempt_folder(status.folder, status.attempts) / "log.txt"
    assert log.read_text() == "Segmentation fault\n"


def test_a_launch_asks_again_for_what_a_living_worker_has_been_at(plan, fabricate):
    launch(plan(SEEDS), Nobody())
    state = plan(SEEDS).state
    fabricate.failed(plan(SEEDS).runs[0].training.run, RuntimeError("no"))
    served = {(entry.run, entry.launch) for entry in state.queue()}
    assert next_entry(state, served) is None
    launch(plan(SEEDS), Nobody(), retry_failed=True)
    assert next_entry(state, served).run == plan(SEEDS).runs[0].name
    launch(plan(SEEDS), Nobody())  # does not take the retry back
    assert next_entry(state, served).run == plan(SEEDS).runs[0].name


def test_entries_survive_being_written(plan):
    state = plan(SEEDS).state
    launch(plan(SEEDS), Nobody())
    queue = state.queue()
    state.write_queue([replace(queue[0], retry_until=2)], Path("x.yaml"))
    assert state.queue()[0].retry_until == 2
    assert state.retries() == {queue[0].run: 2}
