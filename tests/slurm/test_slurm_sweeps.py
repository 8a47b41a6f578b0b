"""Sweeps on a real cluster: submitted once, capped, cancelled, preempted, timed out, finished."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.slurm.slurm_project import published_once

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]


def test_an_array_does_everything_once_and_no_more_at_a_time_than_asked(project, undisturbed):
    project.write(seeds=4, workers=2, step_s=0.1)
    told = project.vexp("launch", "s.yaml")
    assert "started 4 workers" in told
    assert "would" not in told
    running = []
    while set(project.states()) != {"done"}:
        states = project.cluster.ask("squeue", "-h", "-r", "-o", "%T").split()
        running.append(states.count("RUNNING"))
    assert max(running) == 2
    assert project.tasks() == 4
    published_once(project)
    undisturbed()
    assert all(run.published() == 1 for run in project.runs())
    assert "started" not in project.vexp("launch", "s.yaml")


def test_status_names_jobs_nodes_logs_and_what_waits(project):
    project.hold(crawl_s=10)
    project.write(seeds=3, workers=2, cpus=4)
    project.vexp("launch", "s.yaml")
    project.wait_all_at_work(2)
    text = project.vexp("status", "s.yaml")
    assert "running on n" in text
    assert "1 queued (JobArrayTaskLimit)" in text
    jobs = project.jobs()
    busy = [job for job in jobs if job["state"] == "running"]
    assert len(busy) == 2 and {job["node"] for job in busy} <= set(project.cluster.names)
    assert all("start 1 of job" in Path(job["log"]).read_text() for job in busy)
    assert {job["run"] for job in jobs} == {run.name for run in project.runs()}
    told = project.vexp("launch", "s.yaml")  # all are queued or running
    assert "started" not in told and "3 workers at work already" in told
    project.vexp("cancel", "s.yaml")


def test_cancelled_runs_save_and_the_next_launch_goes_on(project, undisturbed):
    project.hold()
    project.write(seeds=4, workers=2)
    project.vexp("launch", "s.yaml")
    project.wait_all_at_work(2, step=4)
    other = project.cluster.ask("sbatch", "--parsable", "--wrap", "sleep 60")
    told = project.vexp("cancel", "s.yaml")
    assert "asked 4 workers to stop" in told
    project.wait(lambda: not project.jobs())
    assert other in project.cluster.ask("squeue", "-h", "-o", "%A").split()  # not ours
    assert project.states() == ["new", "new", "stopped", "stopped"]
    stopped = [run for run in project.runs() if run.attempts()]
    saved = [list((run.folder / "attempts/0001/checkpoints").iterdir()) for run in stopped]
    assert all(saved)
    assert {kind for run in stopped for kind in project.ends(run)} == {"interrupted"}
    project.release()
    project.vexp("launch", "s.yaml")
    project.wait_done()
    published_once(project)
    undisturbed()
    assert [_resumed_from(run) > 0 for run in stopped] == [True, True]


def test_scancel_by_hand_is_no_failure(project, undisturbed):
    project.hold(crawl_s=1)
    project.write(seeds=2)
    project.vexp("launch", "s.yaml")
    project.wait_all_at_work(2)
    project.cluster.ask("scancel", *[job["id"] for job in project.jobs()])
    project.wait(lambda: not project.jobs())
    assert project.states() == ["stopped", "stopped"]
    project.release()
    project.vexp("launch", "s.yaml")
    project.wait_done()
    published_once(project)
    undisturbed()


def test_preempted_runs_save_requeue_themselves_and_go_on(project, undisturbed):
    project.hold()
    project.write(seeds=3, partition="preempt", cpus=4)
    project.vexp("launch", "s.yaml")
    project.wait_all_at_work(3)
    project.cluster.ask("sbatch", "-p", "main", "-N3", "--exclusive", "--wrap", "sleep 4")
    project.wait(lambda: all("preempted" in project.ends(run) for run in project.runs()), 60)
    project.release()
    project.wait_done()
    published_once(project)
    undisturbed()
    assert project.tasks() == 3  # nobody launched again
    assert {kind for run in project.runs() for kind in project.ends(run)} == {"preempted"}
    assert all(_resumed_from(run) > 0 for run in project.runs())


def test_a_time_limit_is_survived(project, undisturbed):
    """The limit is a minute, which the launcher itself would refuse as too short."""
    project.hold(crawl_s=5)
    project.write(seeds=1, signal_delay_s=20, sbatch={"time": "1"})
    project.vexp("launch", "s.yaml")
    (run,) = project.runs()
    project.wait(lambda: "timeout" in project.ends(run))
    project.release()
    project.wait_done()
    published_once(project)
    undisturbed()
    assert set(project.ends(run)) == {"timeout"}
    assert _resumed_from(run) > 0


def test_time_limits_are_survived_only_so_often(project):
    project.hold(crawl_s=5)
    project.write(seeds=1, signal_delay_s=20, sbatch={"time": "1"}, retry={"timeout": 0})
    project.vexp("launch", "s.yaml")
    project.wait(lambda: project.states() == ["failed"], 120)
    (run,) = project.runs()
    failure = run.status().failure
    assert failure.kind == "timeout"
    assert "launcher.retry.timeout" in failure.message
    project.wait(lambda: not project.jobs(), 30)
    assert "(timeout)" in project.vexp("status", "s.yaml")


def test_a_stuck_run_is_stopped_and_tried_again_a_few_times(project):
    project.write(seeds=1, step_s=600, stuck_after_min=0.08, retry={"infra": 1})
    project.vexp("launch", "s.yaml")
    project.wait(lambda: project.states() == ["failed"], 120)
    (run,) = project.runs()
    assert project.ends(run).count("infra") >= 2
    assert "no progress" in run.status().failure.message


def test_two_launches_at_once_submit_nothing_twice(project, undisturbed):
    project.write(seeds=4, step_s=0.1)
    both = [project.start("launch", "s.yaml") for _ in range(2)]
    told = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted("started 4 workers" in text for text in told) == [False, True]
    project.wait_done()
    assert project.tasks() == 4
    published_once(project)
    undisturbed()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_launch_killed_in_the_middle_of_a_submission(project, undisturbed, moment):
    """SIGKILL just before Slurm gets to know the array, and just after, before we know its id."""
    real = subprocess.run(
        ["which", "sbatch"], capture_output=True, text=True, check=True
    ).stdout.strip()
    fake = project.folder / "bin/sbatch"
    fake.parent.mkdir()
    submit = f'{real} "$@"'
    fake.write_text(
        f'#!/bin/bash\n[ "$1" = --test-only ] && exec {submit}\n'
        f"{submit if moment == 'after' else ':'}\nkill -9 $PPID\n"
    )
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    project.write(seeds=3, step_s=0.1)
    path = f"{fake.parent}:{project.cluster.env['PATH']}"
    process = project.start("launch", "s.yaml", PATH=path)
    process.communicate(timeout=60)
    assert process.returncode == -9
    queued = len(project.cluster.ask("squeue", "-h", "-r").splitlines())
    assert queued == (3 if moment == "after" else 0)
    assert len(project.jobs()) == queued  # found without their id ever having been written down
    told = project.vexp("launch", "s.yaml")
    assert ("started 3 workers" in told) == (moment == "before")
    project.wait_done()
    assert project.tasks() == (3 if moment == "after" else 6)
    published_once(project)
    undisturbed()
    assert all(run.published() == 1 for run in project.runs())


def test_the_code_that_runs_is_the_code_that_was_submitted(project):
    """A plugin is edited while its runs wait in the queue."""
    plugin = project.folder / "stub_plugin.py"
    original = Path(__file__).parents[1] / "runs/stub_plugin.py"
    plugin.write_text(original.read_text())
    project.write(seeds=1, step_s=0)
    sweep = project.folder / "s.yaml"
    sweep.write_text(sweep.read_text().replace(str(original), str(plugin)))
    project.cluster.ask("scontrol", "update", "partition=main", "state=DOWN")
    try:
        project.vexp("launch", "s.yaml")
        plugin.write_text("raise RuntimeError('edited while it was waiting')\n")
    finally:
        project.cluster.ask("scontrol", "update", "partition=main", "state=UP")
    project.wait_done(60)
    (run,) = project.runs()
    record = json.loads((run.folder / "attempts/0001/provenance.json").read_text())
    code = Path(record["submitted_code"]["folder"])
    assert (code / "plugins/stub_plugin.py").read_text() == original.read_text()
    assert record["submitted_code"]["vexp"]
    assert (code / "vexp/sweeps/task.py").is_file()
    assert os.environ.get("SLURM_JOB_ID") is None


def _resumed_from(run) -> int:
    attempt = run.folder / "attempts" / f"{run.published():04d}"
    return json.loads((attempt / "progress.json").read_text())["resumed_from"]
