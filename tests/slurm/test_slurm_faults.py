"""What befalls a cluster: nodes lose power or a daemon, the controller dies, workers freeze."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.slurm_project import ROOT, Project, published_once
from vexp.runs.claim import attempt_folder, read_owner

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(400)]


def test_a_node_that_loses_power_and_one_that_loses_its_daemon(project, undisturbed):
    """The first one's run is taken over; the second one's goes on, cut off, beside its requeued
    copy, which waits for it.
    """
    project.hold()
    project.write(seeds=3, cpus=4)
    project.vexp("launch", "s.yaml")
    project.wait_all_at_work(3)
    at = {job["node"]: job["run"] for job in project.jobs()}
    project.cluster.kill_node("n1")
    project.cluster.kill_daemon("n2")
    project.release()
    project.wait(lambda: project.store.load(at["n3"]).status().state == "done")
    project.wait_done(200)
    published_once(project)
    undisturbed()
    lost, cut_off = project.store.load(at["n1"]), project.store.load(at["n2"])
    assert lost.status().attempts == 2  # work was repeated once
    assert (lost.folder / "claim-0001.expired").exists()
    assert cut_off.published() == 1  # the process that Slurm had given up published
    assert project.tasks() == 3


def test_a_controller_that_dies_and_comes_back(project, undisturbed):
    kill_controller(project, with_its_state=False)
    project.wait_done()
    published_once(project)
    undisturbed()
    assert project.tasks() == 3


def test_a_controller_that_forgets_a_waiting_job(tmp_path, own_cluster, monkeypatch):
    """slurmctld writes what is in its queue seconds later; what it lost is submitted again."""
    monkeypatch.chdir(tmp_path)
    project = Project(tmp_path, own_cluster)
    kill_controller(project, with_its_state=True)
    told = project.vexp("launch", "s.yaml", "--wait")
    assert "Traceback" not in told
    assert project.states() == ["done"] * 3
    published_once(project)
    assert project.tasks() == 4
    assert {run.status().attempts for run in project.runs()} == {1, 2}  # a lost job counts


@pytest.fixture
def own_cluster(cluster):
    """A cluster that nobody needs afterwards."""
    made = Cluster(Path(tempfile.mkdtemp(prefix="slurm-")))
    made.start()
    yield made
    made.stop()
    shutil.rmtree(made.folder, ignore_errors=True)


def kill_controller(project: Project, with_its_state: bool) -> None:
    """Kill it while two of three runs are at work, and start it when they are done."""
    project.write(seeds=3, workers=2, step_s=0.3)
    project.vexp("launch", "s.yaml")
    state = project.cluster.folder / "state"
    submitted = time.time()
    project.wait_all_at_work(2)
    if not with_its_state:
        jobs = state / "job_state"
        project.wait(lambda: jobs.exists() and jobs.stat().st_mtime > submitted, 60)
    project.cluster.kill_daemon("slurmctld")
    told = project.vexp("status", "s.yaml", check=False)
    assert "Traceback" not in told
    assert "squeue" in told
    project.wait(lambda: project.states().count("done") >= 2)  # running jobs do not notice
    told = project.vexp("launch", "s.yaml", check=False)
    assert "is the controller up?" in told
    assert project.tasks() == 3
    if with_its_state:
        for name in ("job_state", "job_state.old"):
            (state / name).unlink(missing_ok=True)
        # Nodes remember the numbers of lost jobs, and are drained when one comes twice.
        conf = project.cluster.conf
        conf.write_text(f"{conf.read_text()}FirstJobId=1000\n")
    project.cluster.start_controller()


def test_jobs_killed_without_a_word_are_found_gone_and_submitted_again(project, undisturbed):
    """SIGKILL of everything in two jobs: nothing was recorded, and no clock is asked."""
    project.hold()
    project.write(seeds=2)
    project.vexp("launch", "s.yaml")
    project.wait_all_at_work(2)
    project.cluster.ask("scancel", "--full", "--signal=KILL", *[j["id"] for j in project.jobs()])
    project.wait(lambda: not project.cluster.ask("squeue", "-h"))
    project.release()
    assert "started 2 workers" in project.vexp("launch", "s.yaml")
    project.wait_done()
    published_once(project)
    undisturbed()
    assert {run.status().attempts for run in project.runs()} == {2}
    assert {kind for run in project.runs() for kind in project.ends(run)} <= {
        "infra",
        "interrupted",
    }


def test_a_frozen_job_is_taken_over_and_its_late_writes_reach_nothing(project, undisturbed):
    """The task is frozen as well: else it would end its process, which hangs."""
    project.hold(crawl_s=10)
    project.write(seeds=1, cpus=4)
    project.vexp("launch", "s.yaml")
    project.wait_all_at_work(1, step=5)
    (run,) = project.runs()
    owner = read_owner(run.folder, 1)
    frozen = [_parent(owner.pid), owner.pid]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    other = subprocess.Popen(
        [sys.executable, "-m", "vexp", "_run", str(run.folder)],
        env=os.environ
        | project.stub(0)
        | {"VEXP_HOLD": ""}
        | {"PYTHONPATH": f"{ROOT}/tests/slurm/site:{ROOT}"},
    )
    try:
        assert other.wait(240) == 0
        assert run.published() == 2
        before = _content(run.folder)
    finally:
        other.kill()
        other.wait()
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    project.wait(lambda: not project.cluster.ask("squeue", "-h"))
    assert owner.gone() or not Path(f"/proc/{owner.pid}").exists()
    assert _content(run.folder) == before
    published_once(project)
    undisturbed()


def test_a_run_that_hangs_in_its_job_is_ended_by_its_task_and_goes_on(project, undisturbed):
    project.hold()
    project.write(seeds=1)
    project.vexp("launch", "s.yaml")
    project.wait_all_at_work(1, step=5)
    (run,) = project.runs()
    os.kill(read_owner(run.folder, 1).pid, signal.SIGSTOP)
    project.release()
    project.wait_done()
    assert project.ends(run) == ["infra"]
    assert project.tasks() == 1  # requeued
    published_once(project)
    undisturbed()


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_launch_killed_at_any_moment(project, undisturbed):
    project.write(seeds=4, step_s=0.05)
    for after_s in (0.3, 0.9, 1.5, 2.1):
        process = project.start("launch", "s.yaml")
        time.sleep(after_s)
        process.kill()
        process.communicate()
    project.vexp("launch", "s.yaml")
    project.wait_done()
    published_once(project)
    undisturbed()


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_real_training_is_cancelled_and_goes_on(project):
    text = """
base:
  - warm_start.steps=4
  - warm_start.batch_size=4
  - rl.steps=6
  - rl.prompts_per_step=2
  - rl.learning_rate=1e-3
  - rollout.group_size=4
  - rollout.max_response_length=12
  - reward.terms.overlong={name:overlong,buffer:11}
  - evaluator.heldout.size=8
  - checkpoint.every=2
  - compute.threads=1
rows: {a: []}
seeds: [1]
"""
    project.write(text=text, time_min=10)
    project.vexp("launch", "s.yaml")
    project.wait(lambda: any(project.step(run) >= 2 for run in project.runs()), 200)
    project.cluster.ask("scancel", "--signal=TERM", *_ids(project))
    project.wait(lambda: not project.cluster.ask("squeue", "-h"))
    assert project.states() == ["stopped"]
    project.vexp("launch", "s.yaml")
    project.wait_done(200)
    (run,) = project.runs()
    assert run.status().attempts == 2
    project.vexp("run", *_overrides(text), "seed=1", "results_dir=calm")
    (calm,) = type(project.store)(project.folder / "calm").runs()
    assert _trained(run) == _trained(calm)


def _ids(project):
    return project.cluster.ask("squeue", "-h", "-r", "-o", "%i").split()


def _overrides(text):
    return [line.strip().removeprefix("- ") for line in text.splitlines() if line.startswith("  -")]


def _trained(run):
    attempt = attempt_folder(run.folder, run.published())
    weights = run.model(run.result()) / "model.safetensors"
    return (attempt / "metrics.jsonl").read_bytes(), hashlib.sha256(
        weights.read_bytes()
    ).hexdigest()


def _content(folder):
    """Everything that is published of a run: names, sizes and bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "attempts/0001" not in str(path)
    }
