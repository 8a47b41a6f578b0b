"""One run over several nodes: requeued in the middle, with a process killed, and as on one node."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.slurm.slurm_project import ROOT, published_once
from vexp.runs.claim import attempt_folder

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(500)]
STEPS = 12
SWEEP = f"""
base:
  - plugins=['{ROOT}/tests/runs/coin_plugin.py']
  - verifier=coin
  - backbone.layers=2
  - backbone.hidden_size=64
  - backbone.heads=2
  - warm_start.steps=2
  - warm_start.batch_size=4
  - rl.steps={STEPS}
  - rl.prompts_per_step=4
  - rl.learning_rate=1e-3
  - rollout.group_size=4
  - rollout.max_response_length=6
  - evaluator.heldout.size=8
  - checkpoint.every=2
  - compute.threads=1
rows: {{a: []}}
seeds: [1]
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Rows of the same run on one process, without Slurm."""
    from tests.slurm.slurm_project import Project

    quiet = Project(tmp_path_factory.mktemp("alone"))
    overrides = [
        line.strip()[2:].replace("'", "") for line in SWEEP.splitlines() if line.startswith("  -")
    ]
    quiet.vexp("run", *overrides, "seed=1")
    (run,) = quiet.runs()
    return rows(run)


def rows(run):
    home = attempt_folder(run.folder, run.published())
    return [json.loads(line) for line in (home / "metrics.jsonl").read_text().splitlines()]


def followers(cluster, node):
    """Processes on a node that follow another one's lead."""
    found = []
    for pid in cluster.processes(node):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"_follow" in command and b"-P" in command.split(b"\0")[1:2]:
            found.append(pid)
    return found


def at_step(project, step):
    project.wait(lambda: any(project.step(run) >= step for run in project.runs()), 200)


def test_two_nodes_with_a_requeue_in_the_middle(project, alone):
    """Four processes on two nodes; Slurm puts the job back into the queue, and it goes on."""
    project.write(text=SWEEP, nodes=2, tasks_per_node=2, cpus=2, time_min=10)
    project.vexp("launch", "s.yaml")
    at_step(project, 3)
    (run,) = project.runs()
    (job,) = project.jobs()
    nodes = [name for name in project.cluster.names if followers(project.cluster, name)]
    assert len(nodes) == 2, "one process of four leads, and the others are on both nodes"
    project.cluster.ask("scontrol", "requeue", job["id"])
    project.wait_done(300)
    published_once(project)
    assert run.status().attempts == 2
    assert project.tasks() == 1
    assert [row["step"] for row in rows(run)] == list(range(1, STEPS + 1))
    for one, other in zip(rows(run), alone, strict=True):
        assert one == pytest.approx(other, rel=2e-4, abs=2e-6)
    project.wait(lambda: not any(followers(project.cluster, n) for n in project.cluster.names), 30)


def test_a_process_killed_on_another_node_costs_one_attempt(project, alone):
    project.write(text=SWEEP, nodes=2, cpus=2, time_min=10)
    project.vexp("launch", "s.yaml")
    at_step(project, 3)
    (run,) = project.runs()
    (pid,) = [pid for name in project.cluster.names for pid in followers(project.cluster, name)]
    os.kill(pid, signal.SIGKILL)
    project.wait_done(300)
    published_once(project)
    assert project.ends(run) == ["infra"]
    for one, other in zip(rows(run), alone, strict=True):
        assert one == pytest.approx(other, rel=2e-4, abs=2e-6)


def test_a_run_on_two_nodes_is_cancelled_and_goes_on(project, alone):
    project.write(text=SWEEP, nodes=2, cpus=2, time_min=10)
    project.vexp("launch", "s.yaml")
    at_step(project, 3)
    project.vexp("cancel", "s.yaml")
    project.wait(lambda: not project.cluster.ask("squeue", "-h"))
    assert project.states() == ["stopped"]
    project.vexp("launch", "s.yaml")
    project.wait_done(300)
    published_once(project)
    (run,) = project.runs()
    assert project.ends(run) == ["interrupted"]
    for one, other in zip(rows(run), alone, strict=True):
        assert one == pytest.approx(other, rel=2e-4, abs=2e-6)
