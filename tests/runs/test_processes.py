"""One run on several processes: the same rows and weights as on one, whatever befalls a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.train.fakes import SMALLEST
from vexp.config.compose import resolve
from vexp.config.identity import training_id
from vexp.errors import ConfigError
from vexp.runs import processes
from vexp.runs.processes import Span, check_gpus, span_of
from vexp.runs.store import RunStore

ROOT = Path(__file__).resolve().parents[2]
COIN = f"plugins=['{ROOT}/tests/runs/coin_plugin.py']"
RUN = (*SMALLEST, COIN, "verifier=coin", "stages=[rl]", "rl.steps=3", "rl.learning_rate=1e-3",
       "checkpoint.every=2", "~evaluator.heldout")  # fmt: skip


def start(folder, *overrides, number, fault=None, **options):
    """`vexp run` in a process of its own, on `number` processes."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "vexp", "run", *RUN, *overrides,
         f"compute.processes={number}", f"results_dir={folder / 'results'}"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "COIN_FAULT": str(fault or "")},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options,
    )  # fmt: skip


def finished(folder, *overrides, number, **options):
    process = start(folder, *overrides, number=number, **options)
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out
    return only(folder)


def only(folder):
    (run,) = RunStore(folder / "results").runs()
    return run


def rows(run):
    published = run.folder / "attempts" / f"{run.published():04d}"
    return [json.loads(line) for line in (published / "metrics.jsonl").read_text().splitlines()]


def weights(run):
    return load_file(run.model(run.result()) / "model.safetensors")


def assert_alike(found, expected):
    """Equal rows and weights, to what float32 sums in another order leave."""
    ours, theirs = rows(found), rows(expected)
    assert [row.keys() for row in ours] == [row.keys() for row in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=2e-4, abs=2e-6)
    mine, others = weights(found), weights(expected)
    assert mine.keys() == others.keys()
    for name, value in mine.items():
        torch.testing.assert_close(value, others[name], rtol=1e-4, atol=1e-5, msg=name)


def attempt_log(run, number=1):
    return (run.folder / "attempts" / f"{number:04d}" / "log.txt").read_text()


def gone(marker):
    """Whether no process with this text on its command line is left."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(marker).encode() in path.read_bytes():
                return False
        except OSError:
            continue
    return True


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


METHODS = {
    "grpo with a reference, several updates": (
        "algorithm=grpo", "algorithm.kl_coef=0.04", "rl.prompts_per_update=2", "rl.log_entropy=true",
    ),
    "dapo with dynamic sampling": (
        "experiment=dapo", "group_filter.max_batches=3", "rollout.max_response_length=8",
    ),
    "ease": ("experiment=ease", "rollout.max_response_length=8"),
    "vicra": ("experiment=vicra",),
    "sayo": ("experiment=sayo", "rollout.max_response_length=8"),
    "warm start and anchor": (
        "experiment=faithful_mr1", "stages=[warm_start,anchor,rl]", "rl.steps=1",
        "warm_start.steps=3", "warm_start.batch_size=5", "anchor.steps=2", "anchor.batch_size=3",
    ),
    "rethinking": ("rollout=rethink", "rollout.max_response_length=12"),
}  # fmt: skip


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A function from overrides to the finished run of one process."""
    made = {}

    def run(*overrides):
        if overrides not in made:
            made[overrides] = finished(tmp_path_factory.mktemp("one"), *overrides, number=1)
        return made[overrides]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("overrides", METHODS.values(), ids=METHODS)
def test_several_processes_do_what_one_does(tmp_path, alone, overrides, number):
    small = ("compute.micro_batch_size=6",)
    one = alone(*overrides, *small)
    several = finished(tmp_path, *overrides, *small, number=number)
    assert several.name == one.name  # the count is no part of what the run is
    assert any(row["updates"] and row["grad_norm"] > 0 for row in rows(one))
    assert_alike(several, one)
    assert f"{number} processes" in attempt_log(several)
