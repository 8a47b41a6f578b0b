"""Searches on a real cluster: jobs propose their successors, and never one too many."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess

import pytest

from tests.slurm.slurm_project import ROOT
from vexp.files import read_lines
from vexp.runs.claim import attempt_folder

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

SEARCH = f"""
base:
  - plugins=['{ROOT}/tests/runs/stub_plugin.py']
  - backbone=stub
  - evaluator.heldout={{{{name:stub,size:40}}}}
  - warm_start.steps=1
  - rl.steps={{steps}}
  - checkpoint.every=3
table: {{{{columns: [{{{{metric: accuracy, evaluator: heldout}}}}]}}}}
search:
  name: optuna
  sampler: tpe
  trials: {{trials}}
  seed: 3
  objectives: [{{{{metric: accuracy, evaluator: heldout}}}}]
  {{pruner}}
  space:
    rl.learning_rate: {{{{type: float, low: 1e-6, high: 1e-2, log: true}}}}
"""
PRUNER = "pruner: {name: median, metric: reward, every: 2, startup_trials: 4}"


def search(trials, steps=6, pruner=""):
    return SEARCH.format(trials=trials, steps=steps, pruner=pruner)


@pytest.fixture
def launched(project):
    """A function that writes the sweep and launches it."""

    def launch(trials, *, steps=6, pruner="", step_s=0.1, **settings):
        project.write(text=search(trials, steps, pruner), **settings)
        sweep = project.folder / "s.yaml"
        text, _, launcher = sweep.read_text().rpartition("launcher: ")
        given = json.loads(launcher)
        given["environment"] |= project.stub(step_s) | {"STUB_LEARNS": "1"}
        sweep.write_text(f"{text}launcher: {json.dumps(given)}\n")
        return project.vexp("launch", "s.yaml")

    return launch


def trials(project):
    return json.loads(project.vexp("plan", "s.yaml", "--json"))["trials"]


def best(project):
    return json.loads(project.vexp("search", "best", "s.yaml", "--json"))


def wait_found(project, count, timeout_s=600):
    """Until all trials have been proposed and none is under way."""

    def over():
        found = trials(project)
        return found["open"] == 0 and found["live"] == 0

    project.wait(over, timeout_s, "for all trials")
    project.wait(lambda: not project.cluster.ask("squeue", "-h"), 60)
    assert sum(trials(project).values()) == count


def test_sixty_trials_on_four_jobs_are_sixty_and_survive_the_journal(project, launched):
    told = launched(60, steps=8, pruner=PRUNER, workers=4)
    assert "started 4 workers" in told
    wait_found(project, 60)
    assert len(project.runs()) == 60
    found = trials(project)
    assert found["complete"] + found["pruned"] == 60
    assert found["pruned"] >= 5 and found["complete"] >= 5
    for run in project.runs():
        status = run.status()
        rows, torn = read_lines(attempt_folder(run.folder, status.attempts) / "metrics.jsonl")
        assert not torn and (len(rows) == 8 if status.state == "done" else len(rows) < 8)
    before = best(project)
    table = project.vexp("table", "s.yaml", "--format", "json")
    shutil.rmtree(project.folder / "results/sweeps/s/search")
    project.vexp("launch", "s.yaml")
    assert best(project) == before
    assert project.vexp("table", "s.yaml", "--format", "json") == table
    assert "open" in trials(project) and sum(trials(project).values()) == 60
    assert len(project.runs()) == 60
    assert "started" not in project.vexp("launch", "s.yaml")


def test_links_that_are_killed_are_mended_by_any_launch(project, launched):
    launched(10, workers=3, step_s=0.3)
    project.wait(lambda: len(project.runs()) >= 4)

    def chain_is_dead():
        for kind in (["--signal=KILL", "--full"], ["--state=PENDING"]):
            with contextlib.suppress(subprocess.CalledProcessError):  # it has just ended
                project.cluster.ask("scancel", "--user=root", *kind)
        return not project.cluster.ask("squeue", "-h")

    project.wait(chain_is_dead, 60)
    assert trials(project)["open"] > 0
    assert "started 3 workers" in project.vexp("launch", "s.yaml")
    wait_found(project, 10)
    assert trials(project)["complete"] == 10
    assert len(project.runs()) == 10


@pytest.mark.parametrize("how", ["setting", "nodes"])
def test_jobs_pull_trials_where_they_are_told_to_or_may_not_submit(project, launched, how):
    settings = {"successor": "pull"}
    if how == "nodes":  # `sbatch` and `squeue` are not there on the nodes
        folder = project.folder / "bin"
        folder.mkdir()
        for name in ("sbatch", "squeue"):
            (folder / name).write_text("#!/bin/sh\necho not here >&2; exit 1\n")
            (folder / name).chmod(0o755)
        settings = {"setup": [f"export PATH={folder}:$PATH"]}
    launched(6, workers=2, **settings)
    wait_found(project, 6)
    assert trials(project)["complete"] == 6
    assert project.tasks() == 2  # two jobs have done all six
    moves = list((project.folder / "results/sweeps/s/jobs").glob("*/*.json"))
    assert len(moves) == 2
