"""Processes for engines on other nodes of a job: started by srun, lost, hung, and left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.slurm.slurm_project import ROOT, Project

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]


def drivers(cluster, folder):
    """The driver's processes on the first node, without srun's."""
    found = []
    for pid in cluster.processes("n1"):
        command = Path(f"/proc/{pid}/cmdline")
        words = command.read_bytes().split(b"\0") if command.exists() else []
        if b"tests.slurm.engine_driver" in words and words[0].endswith(b"python"):
            found.append(pid)
    return found


def test_a_process_on_another_node_answers_and_never_outlives_what_it_serves(
    project, cluster, tmp_path
):
    folder = tmp_path / "driver"
    folder.mkdir()
    (folder / "wait").touch()
    work = f"srun --nodes=1 --ntasks=1 --relative=0 {sys.executable} -m tests.slurm.engine_driver"
    job = subprocess.Popen(
        ["sbatch", "--wait", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=2",
         "--gres=gpu:1", "--no-requeue", f"--output={tmp_path}/log", f"--wrap={work} {folder}"],
        env=os.environ | cluster.env | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    project.wait(
        lambda: (folder / "found.json").exists() or job.poll() is not None, 200,
        f"for {tmp_path}/log",
    )  # fmt: skip
    assert job.poll() is None, (tmp_path / "log").read_text()
    found = json.loads((folder / "found.json").read_text())
    assert (found["here"], found["there"], found["gpus"]) == ("n1", "n2", "0")
    assert found["whole"]
    assert found["killed"].startswith(
        "EngineDied: the engine's process has ended: killed by SIGKILL"
    )
    assert found["srun_killed"].startswith("EngineDied: ")
    assert found["hangs"].startswith(
        "EngineSilent: the engine's process gave no sign of life for 2 s"
    )
    assert not (found["srun_killed_left"] or found["hangs_left"] or found["ended_left"])

    assert psutil.pid_exists(found["last"])
    (driver,) = drivers(cluster, folder)
    os.kill(driver, signal.SIGKILL)
    project.wait(lambda: not psutil.pid_exists(found["last"]), 20)
    assert not (folder / "home4").exists()  # of the one that was not killed
    project.wait(lambda: not cluster.ask("squeue", "-h"), 60)
    job.wait(60)  # sbatch looks every 32 s in the end


def nodes_of(project: Project) -> list[int]:
    """How many nodes each job in the queue asked for."""
    asked = project.cluster.ask("squeue", "-h", "-r", "-o", "%D")
    return sorted(map(int, asked.split()))


def test_a_run_asks_for_the_nodes_of_its_engines(project):
    """In one sweep, runs with and without; the cluster has three nodes, and holds them all back."""
    text = """
base: ["stages=[rl]"]
rows:
  hf: []
  beside: [engine=vllm, engine.separate=true]
  elsewhere: [engine=vllm, engine.separate=true, engine.nodes=2, rl.steps=7]
seeds: [1]
"""
    project.write(text=text, sbatch={"hold": ""})
    project.vexp("launch", "s.yaml")
    assert nodes_of(project) == [1, 1, 3]
    project.vexp("cancel", "s.yaml")


def test_more_nodes_than_there_are_is_one_message_and_nothing_is_submitted(project):
    project.write(
        text="""
base: ["stages=[rl]", engine=vllm, engine.separate=true, engine.nodes=3]
rows: {a: []}
seeds: [1]
"""
    )
    said = project.vexp("launch", "s.yaml", check=False)
    assert "a run on 4 nodes is more than the partition has" in said
    assert "Traceback" not in said
    assert nodes_of(project) == []
