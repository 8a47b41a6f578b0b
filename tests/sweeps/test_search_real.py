"""A search over the learning rate with real training, small as it can be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SWEEP = """
base:
  - warm_start.steps=4
  - warm_start.batch_size=8
  - rl.steps=4
  - rl.prompts_per_step=2
  - rollout.group_size=4
  - rollout.max_response_length=8
  - checkpoint.every=2
  - compute.threads=1
  - evaluator.dev=heldout
  - evaluator.dev.split=dev
  - evaluator.dev.size=8
  - ~evaluator.heldout
seeds: [1]
search:
  name: optuna
  trials: 4
  startup_trials: 2
  objectives: [{metric: length, direction: minimize}]
  pruner: {name: hyperband, metric: response_length, every: 1, reduction_factor: 2}
  space:
    rl.learning_rate: {type: float, low: 1e-5, high: 1e-1, log: true}
launcher: {workers: 2}
"""


def vexp(*arguments, project):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "vexp", *arguments]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_with_real_training(project):
    (project / "real.yaml").write_text(SWEEP)
    vexp("launch", "real.yaml", "--wait", project=project)
    found = json.loads(vexp("search", "best", "real.yaml", "--json", project=project))
    assert found["trials"]["complete"] + found["trials"]["pruned"] == 4
    best = found["found"][0]
    results = project / "results" / "runs" / best["runs"][0] / "evaluations"
    (scored,) = results.glob("dev-*/results.json")
    value = json.loads(scored.read_text())["metrics"]["length"]["value"]
    assert best["values"] == {"dev length": value}
    assert len(list((project / "results" / "stages").glob("warm_start-*"))) == 1
    plan = json.loads(vexp("plan", "real.yaml", "--json", project=project))
    for run in plan["runs"]:
        folder = project / "results" / "runs" / run["run"]
        assert (run["state"] == "pruned") == bool(list(folder.glob("claim-*.pruned")))
    again = json.loads(vexp("launch", "real.yaml", "--json", project=project))
    assert (again["created"], again["pending"]) == ([], 0)
