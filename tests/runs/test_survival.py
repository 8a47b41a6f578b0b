"""Killed at any moment and started again, a run ends as one that was never disturbed."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.runs.processes import start
from vexp.runs.store import RunStore

STUB = """
    import sys
    from tests.runs import stub_training
    stub_training.install()
    from tests.runs.conftest import STUBS, Recorder
    from vexp.spec.resolve import resolve
    from vexp.runs.execute import execute
    from vexp.runs.store import RunStore
    run = resolve([*STUBS, "rl.steps=20", "evaluator.heldout.size=10"])
    print("started", flush=True)
    execute(run, reporter=Recorder(), store=RunStore(sys.argv[1]))
    """

REAL = """
    import sys
    from tests.runs.conftest import Recorder
    from vexp.spec.resolve import resolve
    from vexp.runs.execute import execute
    from vexp.runs.store import RunStore
    import vexp.train.stages
    run = resolve([
        "warm_start.steps=4", "warm_start.batch_size=4", "rl.steps=6", "rl.prompts_per_step=2",
        "rl.learning_rate=1e-3", "rollout.group_size=4", "rollout.max_response_length=12",
        "reward.terms.overlong={name:overlong,buffer:11}",  # what an untrained policy varies in
        "evaluator.heldout.size=8", "evaluator.heldout.batch_size=3", "checkpoint.every=2",
        "compute.threads=1",
    ])
    print("started", flush=True)
    execute(run, reporter=Recorder(), store=RunStore(sys.argv[1]))
    """


def started(code: str, root: Path) -> subprocess.Popen[str]:
    process = start(code, root)
    assert process.stdout.readline() == "started\n", process.stderr.read()
    return process


def survive(code: str, root: Path, kills: int, within_s: float, draw: random.Random) -> int:
    """Run to the end, killed up to `kills` times on the way; how often it was killed."""
    killed = 0
    while True:
        process = started(code, root)
        if killed < kills:
            time.sleep(draw.uniform(0, within_s))
            process.send_signal(signal.SIGKILL)
        _, error = process.communicate()
        if process.returncode == 0:
            return killed
        assert process.returncode == -signal.SIGKILL, error
        killed += 1


def science(root: Path) -> dict[str, bytes]:
    """Every byte that is a result: weights, metrics, samples, scores.

    What was being deleted when its process was killed is none, and `vexp clean` finds it.
    """
    (run,) = RunStore(root).runs()
    attempt = run.folder / "attempts" / f"{run.published():04d}"
    found = {"metrics": (attempt / "metrics.jsonl").read_bytes()}
    model = run.model(run.result())
    for path in [*model.rglob("*"), *run.evaluations_dir.rglob("*"), *root.glob("stages/**/*")]:
        deleted = any(part[0] == "." and part.endswith(".tmp") for part in path.parts)
        if path.is_file() and not deleted and path.name not in ("provenance.json", "manifest.json"):
            found[path.name if model in path.parents else str(path.relative_to(root))] = (
                path.read_bytes()
            )
    return found


def check(code: str, tmp_path: Path, kills: int) -> Path:
    """Compare a calm run with one killed at up to `kills` moments; the stormy results folder."""
    seed = random.randrange(10**6)
    print(f"moments drawn with seed {seed}")
    process = started(code, tmp_path / "calm")
    began = time.monotonic()
    _, error = process.communicate()
    assert process.returncode == 0, error
    within_s = 3 * (time.monotonic() - began) / kills + 0.1
    killed = survive(code, tmp_path / "stormy", kills, within_s, random.Random(seed))
    assert killed >= kills // 3
    calm, stormy = science(tmp_path / "calm"), science(tmp_path / "stormy")
    assert calm.keys() == stormy.keys()
    assert [name for name in calm if calm[name] != stormy[name]] == []
    (run,) = RunStore(tmp_path / "stormy").runs()
    assert run.status().state == "done"
    assert run.status().attempts <= killed + 1
    assert not list(run.folder.glob("claim-*.json"))
    return tmp_path / "stormy"


def test_killed_and_started_again_it_ends_bit_identical(tmp_path, monkeypatch):
    monkeypatch.setenv("STUB_STEP_S", "0.03")
    monkeypatch.setenv("STUB_SAMPLE_S", "0.03")
    check(STUB, tmp_path, kills=5)


@pytest.mark.survival
@pytest.mark.timeout(1800)
def test_the_real_trainer_killed_at_random_moments_ends_bit_identical(tmp_path):
    root = check(REAL, tmp_path, kills=8)
    (run,) = RunStore(root).runs()
    trained = run.model(run.result()) / "model.safetensors"
    (warm,) = root.glob("stages/*/model/model.safetensors")
    assert trained.read_bytes() != warm.read_bytes()  # there was something to compare


@pytest.mark.survival
@pytest.mark.timeout(1800)
def test_forty_kills(tmp_path, monkeypatch):
    monkeypatch.setenv("STUB_STEP_S", "0.1")
    monkeypatch.setenv("STUB_SAMPLE_S", "0.1")
    check(STUB, tmp_path, kills=40)
