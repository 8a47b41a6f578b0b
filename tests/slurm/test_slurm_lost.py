"""Jobs that die before vexp begins, folders with odd names, and commands that hang."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.slurm.slurm_project import Project, published_once
from vexp.runs.claim import read_owner

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"python": "/no/such/python"}, "No such file or directory"),
        ({"setup": ["export PATH=/nowhere"]}, "command not found"),
        ({"setup": ["exit 0"]}, "it left no log"),
    ],
)
def test_a_job_that_dies_before_vexp_begins_counts_and_is_shown(project, settings, says):
    project.write(seeds=1, retry={"infra": 1}, **settings)
    for attempt in (1, 2):
        assert "started 1 worker" in project.vexp("launch", "s.yaml")
        project.wait(lambda: not project.cluster.ask("squeue", "-h"))
        told = project.vexp("status", "s.yaml")
        (run,) = project.runs()
        assert "before vexp began" in " ".join(told.replace("| ", "").split())
        assert run.status().attempts >= attempt
    assert project.states() == ["failed"]
    failure = project.runs()[0].status().failure
    assert failure.kind == "infra" and says in failure.message
    assert "results/sweeps/s/jobs" in failure.message  # the way to its log
    told = project.vexp("launch", "s.yaml", check=False)
    assert "started" not in told  # no endless submission
    assert project.tasks() == 2


def test_waiting_does_not_wait_for_such_jobs(project):
    project.write(seeds=2, retry={"infra": 1}, python="/no/such/python")
    began = time.monotonic()
    told = project.vexp("launch", "s.yaml", "--wait", check=False)
    assert time.monotonic() - began < 90
    assert project.states() == ["failed", "failed"]
    assert project.tasks() == 4
    assert "/no/such/python" in told


@pytest.mark.parametrize("name", ["a%jb 100%", "it's %A"])
def test_a_folder_whose_name_slurm_would_take_for_a_pattern(tmp_path, cluster, name, project):
    folder = tmp_path / name
    folder.mkdir()
    odd = Project(folder, cluster)
    odd.write(seeds=2, steps=4, step_s=0.0)
    odd.vexp("launch", "s.yaml")
    odd.wait_done()
    published_once(odd)
    logs = list(folder.glob("results/sweeps/s/jobs/*/*_0_log.out"))
    assert len(logs) == 2
    odd.wait(lambda: all("ended with exit code 0" in log.read_text() for log in logs), 20)


@pytest.mark.parametrize("name", ["a\\b", "a\nb", "a:b"])
def test_a_folder_in_which_jobs_cannot_work_is_one_message(tmp_path, cluster, name, project):
    folder = tmp_path / name
    folder.mkdir()
    odd = Project(folder, cluster)
    odd.write(seeds=1)
    told = odd.vexp("launch", "s.yaml", check=False)
    assert "choose another results_dir" in told and "Traceback" not in told
    assert odd.tasks() == 0


@pytest.mark.parametrize("held", [True, False])
def test_an_sbatch_that_hangs_after_it_has_submitted(project, tmp_path, undisturbed, held):
    """Its launch finds the job by its name, or by what it left; another one submits nothing."""
    folder = tmp_path / "bin"
    folder.mkdir()
    real = project.cluster.ask("sh", "-c", "command -v sbatch")
    hangs = folder / "sbatch"
    hangs.write_text(
        f'#!/bin/sh\ncase "$*" in *--test-only*) exec {real} "$@";; esac\n'
        f'{real} "$@" > /dev/null\nsleep 600\n'
    )
    hangs.chmod(0o755)
    if held:
        project.hold(crawl_s=10)
    project.write(seeds=2)
    path = f"{folder}:{os.environ['PATH']}:{Path(real).parent}"
    began = time.monotonic()
    first = project.start("launch", "s.yaml", PATH=path)
    time.sleep(15)
    told = project.vexp("launch", "s.yaml")
    assert time.monotonic() - began < 60 + 3 * 2 + 20
    out, error = first.communicate(timeout=60)
    assert "started 2 workers" in out, f"{error}\n{told}\n{project.report()}"
    assert "2 workers at work already" in told or "2 done" in told
    if held:
        project.release()
    project.wait_done()
    assert project.tasks() == 2
    published_once(project)
    undisturbed()


def test_who_waits_ends_a_job_that_hangs_as_a_whole(project, undisturbed):
    """Its task hangs with it, and Slurm takes it for running."""
    project.hold()
    project.write(seeds=1)
    project.vexp("launch", "s.yaml")
    project.wait_all_at_work(1, step=5)
    (run,) = project.runs()
    owner = read_owner(run.folder, 1)
    task = int(Path(f"/proc/{owner.pid}/stat").read_text().rpartition(")")[2].split()[1])
    for pid in (task, owner.pid):
        os.kill(pid, signal.SIGSTOP)
    project.release()
    told = project.vexp("launch", "s.yaml", "--wait")
    assert "gave no heartbeat for" in told and "taken over" in told
    assert project.ends(run) == ["infra"]
    assert project.tasks() == 2
    published_once(project)
    undisturbed()
