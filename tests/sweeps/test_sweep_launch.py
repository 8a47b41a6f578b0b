"""Launching with real, detached workers whose runs do not train."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from tests.sweeps.conftest import eventually
from vexp.errors import StorageError
from vexp.files import read_lines
from vexp.launcher.local import Local
from vexp.sweeps.launch import launch
from vexp.sweeps.watch import settled, watch
from vexp.sweeps.worker_slots import held_slots

FOUR = "base: {stages: [rl]}\nrows: {a: [], b: [algorithm=dapo]}\nseeds: [1, 2]"
THREE = "base: {stages: [rl]}\nrows: {a: []}\nseeds: [1, 2, 3]"


def started(plan):
    return [row["run"] for row in read_lines(plan.state.results_dir / "started.jsonl")[0]]


def files(folder: Path):
    return {
        path: path.stat().st_mtime_ns
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "workers" not in path.parts
    }


def test_launch_returns_at_once_and_detached_workers_do_everything_once(plan, local):
    launcher = local(workers=2)
    before = plan(FOUR)
    done = launch(before, launcher)
    assert len(done.created) == done.pending == 4
    assert len(done.started) == 2
    assert not plan(FOUR).complete
    eventually(lambda: plan(FOUR).complete)
    assert sorted(started(before)) == sorted(run.name for run in before.runs)
    eventually(lambda: not launcher.alive(before.state.folder))


def test_a_launch_with_nothing_missing_changes_nothing(plan, local, fabricate):
    for run in plan(FOUR).runs:
        fabricate.done(run.training.run)
    launcher = local()
    launch(plan(FOUR), launcher)
    before = files(plan(FOUR).state.results_dir)
    done = launch(plan(FOUR), launcher)
    assert (done.created, done.pending, done.started) == ((), 0, ())
    assert files(plan(FOUR).state.results_dir) == before


def test_a_dry_run_writes_nothing(plan, local):
    done = launch(plan(FOUR), local(), dry_run=True)
    assert len(done.created) == done.pending == 4
    assert done.started == ()
    assert not plan(FOUR).state.results_dir.exists()


def test_two_launches_at_once_run_nothing_twice(plan, local, monkeypatch):
    launcher = local(workers=2)
    first, second = plan(FOUR), plan(FOUR)
    launch(first, launcher)
    launch(second, launcher)  # before the first one's workers have come up
    launch(plan(FOUR), launcher)
    eventually(lambda: plan(FOUR).complete)
    assert sorted(started(first)) == sorted(run.name for run in first.runs)


def test_a_later_launch_adds_workers_up_to_their_number(plan, local, monkeypatch):
    monkeypatch.setenv("FAKE_1", "slow")
    monkeypatch.setenv("FAKE_2", "slow")
    launch(plan(FOUR), local(workers=1))
    eventually(lambda: plan(FOUR).counts()["running"] == 1)
    assert len(launch(plan(FOUR), local(workers=1)).started) == 0
    assert len(launch(plan(FOUR), local(workers=3)).started) == 2
    eventually(lambda: plan(FOUR).counts()["running"] == 3)


def test_stopping_the_workers_stops_their_runs_cleanly(plan, local, monkeypatch):
    monkeypatch.setenv("FAKE_1", "slow")
    launcher = local(workers=1)
    launch(plan(FOUR), launcher)
    state = plan(FOUR).state.folder
    eventually(lambda: plan(FOUR).counts()["running"] == 1)
    assert len(launcher.stop(state)) == 1
    eventually(lambda: not launcher.alive(state))
    assert plan(FOUR).counts() == {"done": 0, "running": 0, "failed": 0, "stopped": 1, "new": 3}
    monkeypatch.setenv("FAKE_1", "done")
    launch(plan(FOUR), launcher)
    eventually(lambda: plan(FOUR).complete)
    assert len(started(plan(FOUR))) == 5


def test_a_launch_while_workers_are_stopping_has_others_take_over(plan, local, monkeypatch):
    monkeypatch.setenv("FAKE_SAVES_S", "3")
    for seed in (1, 2, 3, 4):
        monkeypatch.setenv(f"FAKE_{seed}", "slow")
    launcher = local(workers=2)
    launch(plan(FOUR), launcher)
    eventually(lambda: plan(FOUR).counts()["running"] == 2)
    state = plan(FOUR).state
    owners = {holder.owner.token for holder in held_slots(state.workers) if holder.owner}
    assert len(launcher.stop(state.folder)) == 2
    assert {worker.state for worker in launcher.alive(state.folder)} == {"stopping"}
    for seed in (1, 2, 3, 4):
        monkeypatch.setenv(f"FAKE_{seed}", "done")
    again = [launch(plan(FOUR), launcher) for _ in range(2)]  # from two shells, say
    assert [len(done.started) for done in again] == [2, 2]
    assert {worker.state for worker in again[0].alive} == {"stopping"}
    eventually(lambda: plan(FOUR).complete)
    assert len(started(plan(FOUR))) == 6  # two went on after they had been stopped
    left = [holder.owner for holder in held_slots(state.workers)]  # None: just about to leave
    assert owners.isdisjoint(owner.token for owner in left if owner)


def test_a_killed_worker_leaves_its_slot_and_the_next_launch_goes_on(plan, local, monkeypatch):
    monkeypatch.setenv("FAKE_1", "slow")
    launcher = local(workers=1)
    launch(plan(THREE), launcher)
    state = plan(THREE).state
    eventually(lambda: plan(THREE).counts()["running"] == 1)
    (holder,) = held_slots(state.workers)
    run = plan(THREE).runs[0].status.owner.pid
    os.kill(holder.owner.pid, signal.SIGKILL)
    eventually(lambda: not launcher.alive(state.folder))
    assert plan(THREE).counts()["running"] == 1  # the run's own process lives
    assert len(launch(plan(THREE), launcher).started) == 1
    eventually(lambda: plan(THREE).counts()["done"] >= 2)  # with other runs, not with that one
    assert plan(THREE).runs[0].state == "running"
    eventually(lambda: not launcher.alive(state.folder))
    os.kill(run, signal.SIGKILL)
    eventually(lambda: plan(THREE).runs[0].state != "running")
    monkeypatch.setenv("FAKE_1", "done")
    launch(plan(THREE), launcher)
    eventually(lambda: plan(THREE).complete)


def test_workers_outlive_the_process_and_the_terminal_that_launched_them(plan, local, project):
    """The launching process ends and its whole session is sent SIGHUP."""
    before = plan(FOUR)
    launch(before, local(), dry_run=True)
    script = (
        "import sys, os, signal\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from pathlib import Path\n"
        "from tests.sweeps.conftest import FakeLocal\n"
        "from vexp.sweeps.launch import launch\n"
        "from vexp.sweeps.plan import make_plan\n"
        "from vexp.sweeps.reader import read_sweep\n"
        "launch(make_plan(read_sweep(Path('small.yaml'))), FakeLocal())\n"
        "os.killpg(0, signal.SIGHUP)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=project, start_new_session=True, check=False)
    eventually(lambda: plan(FOUR).complete)


def test_results_below_a_file_are_one_message(plan, project):
    (project / "afile").write_text("a file")
    with pytest.raises(StorageError, match="this is a file, but a folder has to be here") as found:
        plan(FOUR.replace("[rl]}", "[rl], results_dir: afile/x}"))
    assert found.value.problem.where == "afile"


@pytest.mark.parametrize(
    "place", ["results", "results/runs", "results/sweeps/small", "results/sweeps/small/jobs"]
)
def test_a_file_where_a_folder_has_to_be_is_one_message(plan, project, place):
    (project / place).parent.mkdir(parents=True, exist_ok=True)
    (project / place).write_text("a file")
    with pytest.raises(StorageError, match="this is a file, but a folder has to be here"):
        plan(FOUR)


def test_waiting_shows_each_change_once_and_ends_when_all_is_settled(plan, local, monkeypatch):
    monkeypatch.setenv("FAKE_2", "fails")
    launcher = local(workers=2)
    launch(plan(FOUR), launcher)
    console = Console(record=True, width=200, force_terminal=False)
    after = watch(plan(FOUR), launcher, console, interval_s=0.05)
    assert settled(after)
    assert after.counts()["failed"] == 2
    lines = console.export_text().splitlines()
    assert sum(": done" in line for line in lines) == 2
    assert any(line.startswith("a seed=2: failed, no luck") for line in lines)
    assert len(lines) == len(set(lines))


def test_waiting_on_a_terminal_draws_the_table(plan, local, fabricate):
    for run in plan(FOUR).runs:
        fabricate.done(run.training.run)
    console = Console(record=True, width=120, force_terminal=True)
    watch(plan(FOUR), local(), console)
    text = console.export_text()
    assert "4 declared: 4 done" in text
    assert "b seed=2" in text


def test_waiting_gives_up_when_nobody_works(plan, local, monkeypatch):
    monkeypatch.setattr("vexp.sweeps.watch._GRACE_S", 0.1)
    start = time.monotonic()
    after = watch(plan(FOUR), local(), Console(quiet=True), interval_s=0.02)
    assert time.monotonic() - start < 30
    assert after.counts()["new"] == 4


def test_threads_are_shared_out_unless_told(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("vexp.launcher.local._cores", lambda: 8)
    assert Local(workers=2).variables()["OMP_NUM_THREADS"] == "4"
    assert Local(workers=3, threads=5).variables()["MKL_NUM_THREADS"] == "5"
    assert Local(workers=20).variables()["OMP_NUM_THREADS"] == "1"
    assert Local(environment={"X": "1"}).variables()["X"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert Local(workers=2).variables()["OMP_NUM_THREADS"] == "3"
