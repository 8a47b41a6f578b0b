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
from vexp.errors import ConfigError
from vexp.runs.processes import Topology, span_of
from vexp.runs.store import RunStore
from vexp.spec.identity import training_id
from vexp.spec.resolve import resolve

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


def wait_for(condition, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


METHODS = {
    "grpo with a reference, several updates": (
        "algorithm=grpo", "algorithm.kl_coef=0.04", "rl.prompts_per_update=2",
        "rl.log_entropy=true",
    ),
    "dapo with dynamic sampling": (
        "experiment=dapo", "group_filter.max_batches=3", "rollout.max_response_length=8",
    ),
    "ease": ("experiment=ease", "rollout.max_response_length=8"),
    "vicra": ("experiment=vicra", "rl.log_entropy=true"),
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


LONG = ("rl.steps=40", "checkpoint.every=2")


def followers_of(process):
    """The processes that a run has started, by rank; all of them are at work."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().decode().split("\0")
            parent = int((path.parent / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == process.pid and "_follow" in command and "trap" not in command[2]:
            found[int(command[command.index("--rank") + 1])] = int(path.parent.name)
    return found


def at_step(folder, step, attempt=1):
    def there():
        name = f"runs/*/attempts/{attempt:04d}/metrics.jsonl"
        written = list((folder / "results").glob(name))
        return any(len(path.read_text().splitlines()) >= step for path in written)

    wait_for(there)


@pytest.mark.slow
def test_a_checkpoint_serves_any_number_of_processes(tmp_path, alone):
    """Three stop, one goes on and stops, two finish: the rows of one that never stopped."""
    for attempt, number in ((1, 3), (2, 1)):
        process = start(tmp_path, *LONG, number=number)
        at_step(tmp_path, 3 + 10 * (attempt - 1), attempt)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 143, out
        assert "everything is saved" in out
    run = finished(tmp_path, *LONG, number=2)
    assert run.status().attempts == 3
    assert_alike(run, alone(*LONG))


@pytest.mark.slow
def test_sigterm_to_any_process_saves_and_stops_all(tmp_path):
    process = start(tmp_path, *LONG, number=3)
    at_step(tmp_path, 2)
    os.kill(followers_of(process)[2], signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130, out
    assert "everything is saved" in out
    assert only(tmp_path).status().state == "stopped"
    wait_for(lambda: gone(tmp_path), 10)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_process_killed_ends_the_others_and_the_next_call_goes_on(tmp_path, alone, rank):
    process = start(tmp_path, *LONG, number=3)
    at_step(tmp_path, 3)
    os.kill(followers_of(process)[rank] if rank else process.pid, signal.SIGKILL)
    out, _ = process.communicate(timeout=20)
    wait_for(lambda: gone(tmp_path), 10)
    run = only(tmp_path)
    if rank:
        assert process.returncode == 1, out
        assert f"process {rank} of this run has ended: killed by SIGKILL" in out
        assert run.status().state == "stopped"
        record = json.loads((run.folder / "attempts/0001/failure.json").read_text())
        assert record["kind"] == "infra"
    assert "Traceback" not in out
    run = finished(tmp_path, *LONG, number=3)
    assert run.status().attempts == 2
    assert_alike(run, alone(*LONG))


@pytest.mark.slow
def test_an_error_in_one_process_is_the_error_of_all(tmp_path):
    fault = tmp_path / "fault"
    fault.write_text("1 raise")
    process = start(tmp_path, number=2, fault=fault)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "RuntimeError at coin_plugin.py" in out
    assert "the coin fell off the table" in out
    assert "process 1" in out
    assert "Traceback" not in out
    failed = only(tmp_path).status().failure
    assert failed.kind == "code"
    log = attempt_log(only(tmp_path))
    assert log.count("the coin fell off the table") >= 2
    assert "_fault" in log  # the traceback of the process that failed
    wait_for(lambda: gone(tmp_path), 10)


def test_a_process_that_waits_for_ever_for_one_that_is_gone_is_killed(tmp_path):
    """As on a GPU, where an operation that waits hears of nothing: here a frozen first process."""
    code = f"""
import signal, sys, time
sys.path.insert(0, {str(ROOT)!r})
from vexp.runs import processes
processes._NOTICING_S = 0.5
others = processes._Followers({{"process 1": ["sh", "-c", "exit 3"]}}, 1, {{}})
with others.watched(print):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    time.sleep(60)
"""
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.returncode == -signal.SIGKILL, done
    assert time.monotonic() - begun < 30


@pytest.mark.slow
def test_a_local_worker_goes_on_by_itself(tmp_path):
    """The loss of a process counts against `launcher.retry.infra`, as on a cluster."""
    fault = tmp_path / "fault"
    fault.write_text("1 SIGKILL")
    settings = "\n".join(f"  - {line}" for line in (*RUN, "compute.processes=2"))
    (tmp_path / "s.yaml").write_text(
        f"base:\n{settings}\nrows: {{a: []}}\nseeds: [1]\nlauncher: {{name: local, workers: 1}}\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-m", "vexp", "launch", "s.yaml", "--wait"], cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COIN_FAULT": str(fault)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    run = only(tmp_path)
    assert run.status().state == "done", done.stdout + done.stderr
    assert run.status().attempts == 2


def test_the_number_of_processes_is_no_part_of_a_runs_id():
    one, two = (resolve([f"compute.processes={number}"]) for number in ("null", "2"))
    assert training_id(one) == training_id(two)


def test_more_processes_than_gpus_is_one_message(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    run = resolve(["compute.processes=3"])
    with pytest.raises(ConfigError, match="3 processes on one machine need as many GPUs"):
        span_of(run, None)
    assert span_of(resolve(["compute.processes=2"]), None) == Topology(1, 2)
    assert span_of(resolve(["compute.processes=3", "compute.device=cpu"]), None) == Topology(1, 3)


def test_a_launcher_that_gives_another_number_is_one_message():
    run = resolve(["compute.processes=3"])
    with pytest.raises(ConfigError, match=r"3 processes are asked for.*4 \(2 nodes with 2 each\)"):
        span_of(run, Topology(2, 2))
    assert span_of(resolve(["compute.device=cpu"]), Topology(2, 2)) == Topology(2, 2)
    slurm = ["launcher=slurm", "launcher.nodes=2", "launcher.gpus=2", "launcher.tasks_per_node=2"]
    resolve([*slurm, "compute.processes=4"])
    with pytest.raises(ConfigError, match="3 processes are asked for"):
        resolve([*slurm, "compute.processes=3"])


def test_a_process_started_by_another_launcher_is_one_message(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="one of 4") as found:
        span_of(resolve([]), None)
    assert "compute.processes=4 has it start the others" in str(found.value)
