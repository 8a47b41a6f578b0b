"""vLLM on another node of a run's Slurm job: the run of `hf`, whatever is lost on the way."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.slurm import conftest as slurm
from tests.slurm.slurm_project import ROOT, Project, published_once
from vexp.runs.claim import attempt_folder

cluster, project = slurm.cluster, slurm.project
pytestmark = [pytest.mark.slurm]
STEPS = 6
BASE = (
    "stages=[rl]",
    f"rl.steps={STEPS}",
    "rl.prompts_per_step=4",
    "rl.learning_rate=1e-3",
    "rollout.group_size=3",
    "rollout.max_response_length=10",
    f"plugins=['{ROOT}/tests/runs/coin_plugin.py']",
    "verifier=coin",
    "evaluator.heldout.size=4",
    "checkpoint.every=1",
    "compute.device=cpu",
    "compute.threads=1",
)
VLLM = (
    "engine=vllm",
    "engine.separate=true",
    "engine.nodes=1",
    "engine.max_length=512",
    "engine.cache_gb=0.2",
)


def rows(run):
    home = attempt_folder(run.folder, run.published())
    return [json.loads(line) for line in (home / "metrics.jsonl").read_text().splitlines()]


def engines(cluster, node):
    """The engines on a node; srun's own processes are not among them, nor the shells."""
    found = []
    for pid in cluster.processes(node):
        command = Path(f"/proc/{pid}/cmdline")
        words = command.read_bytes().split(b"\0") if command.exists() else []
        if b"_engine" in words and words[1:2] == [b"-P"]:
            found.append(pid)
    return found


def homes() -> set[Path]:
    """What engines have in this machine's shared memory, which is that of all nodes."""
    return set(Path("/dev/shm").glob("vexp-vllm-*"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Rows of the same run with `hf`, on this machine."""
    quiet = Project(tmp_path_factory.mktemp("alone"))
    quiet.vexp("run", *(one.replace("'", "") for one in BASE), "seed=1")
    (run,) = quiet.runs()
    return rows(run)


def test_two_processes_have_their_engines_on_a_third_node(project, cluster, alone):
    """One of the engines is killed in the middle; the rows are those of `hf`."""
    others = homes()
    text = "\n".join(["base:", *(f"  - {one}" for one in (*BASE, *VLLM)), "rows: {a: []}"])
    site = f"export PYTHONPATH={ROOT}/tests/vllm/site"
    given = {"nodes": 2, "cpus": 1, "mem_gb": 3, "time_min": 30}
    project.write(text=f"{text}\nseeds: [1]\n", setup=[site], **given)
    project.vexp("launch", "s.yaml")

    def at(step):
        project.wait(lambda: any(project.step(run) >= step for run in project.runs()), 400)

    at(2)
    assert [len(engines(cluster, node)) for node in cluster.names] == [0, 0, 2]
    first = engines(cluster, "n3")
    os.kill(first[0], signal.SIGKILL)
    (run,) = project.runs()
    before = project.step(run)
    at(before + 2)
    again = engines(cluster, "n3")
    assert len(again) == 2 and set(again) != set(first)
    project.wait_done(400)
    published_once(project)
    assert run.status().attempts == 1, "a lost engine costs no attempt"
    assert [row["step"] for row in rows(run)] == list(range(1, STEPS + 1))
    assert any(row["loss"] for row in alone)
    for one, other in zip(rows(run), alone, strict=True):
        assert one["reward"] == pytest.approx(other["reward"], abs=1e-6)
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert one["mismatch/max"] < 1e-5
    project.wait(lambda: not engines(cluster, "n3"), 20)
    project.wait(lambda: homes() <= others, 20)
