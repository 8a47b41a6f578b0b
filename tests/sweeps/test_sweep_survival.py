"""Sweeps in a storm: every run is done, published once, with the results of a calm one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sweeps.conftest import eventually
from vexp.errors import StorageError
from vexp.files import read_json, read_lines
from vexp.runs.claim import Busy, acquire, attempt_folder, live_file
from vexp.runs.heartbeat import Timing, beat
from vexp.runs.process_id import Owner
from vexp.runs.store import RunStore
from vexp.spec.identity import training_id
from vexp.sweeps.launch import launch
from vexp.sweeps.plan import make_plan, refreshed
from vexp.sweeps.reader import read_sweep
from vexp.sweeps.show import silent_lines
from vexp.sweeps.worker import next_entry
from vexp.sweeps.worker_slots import Slot, held_slots

HERE = Path(__file__).parent
TEN = "rows: {a: {stages: [rl]}, b: {stages: [rl], algorithm: dapo}}\nseeds: [1, 2, 3, 4, 5]"
LAUNCH = f"""
import sys
sys.path.insert(0, {str(HERE.parents[1])!r})
from pathlib import Path
from tests.sweeps.conftest import FakeLocal
from vexp.sweeps.launch import launch
from vexp.sweeps.plan import make_plan
from vexp.sweeps.reader import read_sweep
plan = make_plan(read_sweep(Path("small.yaml")))
print("ready", flush=True)
sys.stdin.readline()
done = launch(plan, FakeLocal(workers=3))
print(len(done.started), flush=True)
"""


def shell(project: Path) -> subprocess.Popen[str]:
    """A process that has planned the sweep and launches it when it is sent a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCH], cwd=project, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


def go(process: subprocess.Popen[str]) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


def results(store: RunStore) -> dict[str, bytes]:
    """All that was found out, by run and file."""
    found = {}
    for run in store.runs():
        found[run.name] = repr(run.result()).encode()
        for path in sorted(run.evaluations_dir.glob("*/results.json")):
            found[str(path.relative_to(store.root))] = path.read_bytes()
    return found


def published_once(store: RunStore) -> None:
    """Each run has one publication, of an attempt that is whole, and nobody holds it any more."""
    for run in store.runs():
        assert run.status().state == "done"
        assert not list(run.folder.glob("claim-*.json"))
        assert (attempt_folder(run.folder, run.published()) / "result.json").exists()


@pytest.fixture
def undisturbed(tmp_path_factory, local, monkeypatch):
    """What the sweep of ten runs finds when nobody disturbs it."""
    project = tmp_path_factory.mktemp("calm")
    with monkeypatch.context() as calm:
        calm.chdir(project)
        Path("small.yaml").write_text(TEN)
        plan = make_plan(read_sweep(Path("small.yaml")))
        launch(plan, local(workers=3))
        eventually(lambda: refreshed(plan).complete)
        store = RunStore(project / "results")
        published_once(store)
        return results(store)


@pytest.mark.survival
def test_two_launches_at_once_from_two_shells(plan, local, store, project):
    before = plan(TEN)
    launch(before, local(), dry_run=True)
    shells = [shell(project), shell(project)]
    for process in shells:
        go(process)
    started = [process.communicate(timeout=60) for process in shells]
    assert [process.returncode for process in shells] == [0, 0], started
    watched = local()
    watched.start(before.state.folder, 0)  # so that its workers are stopped, come what may
    eventually(lambda: plan(TEN).complete)
    rows = [row["run"] for row in read_lines(store.root / "started.jsonl")[0]]
    assert sorted(rows) == sorted(run.name for run in before.runs)  # each of them exactly once
    published_once(store)


@pytest.mark.survival
def test_a_launch_killed_at_any_moment_is_made_good_by_the_next(
    plan, local, store, project, undisturbed
):
    seed = random.randrange(10**6)
    print(f"moments drawn with seed {seed}")
    draw = random.Random(seed)
    before = plan(TEN)
    local().start(before.state.folder, 0)
    killed = 0
    for _ in range(12):
        process = shell(project)
        go(process)
        time.sleep(draw.uniform(0, 0.08))
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        process.communicate()
        for run in store.runs():
            assert run.record.config  # a run folder is there whole or not at all
    assert killed >= 3
    launch(plan(TEN), local(workers=3))
    eventually(lambda: plan(TEN).complete)
    published_once(store)
    assert results(store) == undisturbed
    assert plan(TEN).orphans == ()


@pytest.mark.survival
@pytest.mark.timeout(900)
def test_workers_killed_at_thirty_random_moments(plan, local, store, undisturbed, monkeypatch):
    """Half of the times the run dies with its worker, half of the times it lives on without."""
    seed = random.randrange(10**6)
    print(f"moments drawn with seed {seed}")
    draw = random.Random(seed)
    launcher, killed = local(workers=3), 0
    state = plan(TEN).state
    while killed < 30:
        if plan(TEN).complete:  # the storm outlasts the work: let it be done again
            for run in plan(TEN).runs[:5]:
                _undo(run.status.folder)
        launch(plan(TEN), launcher)
        time.sleep(draw.uniform(0, 1.2))
        owners = [h.owner for h in held_slots(state.workers) if h.owner is not None]
        if owners:
            owner = draw.choice(owners)
            kill = draw.choice([os.kill, os.killpg])  # a worker leads a group with its run
            try:
                kill(owner.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed += 1
    launch(plan(TEN), launcher)

    def made_good() -> bool:
        if not launcher.alive(state.folder):
            launch(plan(TEN), launcher)
        return plan(TEN).complete

    eventually(made_good, 120)
    published_once(store)
    assert results(store) == undisturbed
    assert not plan(TEN).counts()["failed"]


def _undo(folder: Path) -> None:
    """Make a finished run one that was killed before it published."""
    attempt = read_json(folder / "done.json")["attempt"]
    (folder / "done.json").rename(folder / f"claim-{attempt:04d}.stopped")
    for path in (folder / "evaluations").glob("*/results.json"):
        path.unlink()
        path.parent.rmdir()


def _claimed_elsewhere(store: RunStore, run, mtime_offset_s: float) -> Path:
    """A run that a process of another host is at; its clock is off by so much."""
    folder = store.open(run, training_id(run)).folder
    attempt = attempt_folder(folder, 1)
    attempt.mkdir(parents=True)
    owner = Owner.here(attempt=1).to_dict() | {"host": "elsewhere", "boot": "b", "pid": 7}
    live_file(folder, 1).write_text(json.dumps(owner))
    heartbeat = attempt / "heartbeat"
    beat(heartbeat, 1)
    os.utime(heartbeat, (time.time() + mtime_offset_s,) * 2)
    return heartbeat


ONE = "rows: {a: {stages: [rl]}}"


@pytest.mark.parametrize("offset_s", [-3600.0, 3600.0])
def test_a_living_owner_whose_clock_is_an_hour_off_keeps_its_run(plan, store, offset_s):
    """The heartbeat's time looks stale (or from the future); what counts is that it moves."""
    run = plan(ONE).runs[0].training.run
    heartbeat = _claimed_elsewhere(store, run, offset_s)
    counts = iter(range(2, 10**9))

    def beating() -> bool:
        beat(heartbeat, next(counts))
        os.utime(heartbeat, (time.time() + offset_s,) * 2)
        return False

    with pytest.raises(Busy, match="elsewhere"):
        acquire(heartbeat.parents[2], timing=Timing(0.05, 0.6, 0.02), stopping=beating)
    assert plan(ONE).runs[0].state == "running"
    assert not list(heartbeat.parents[2].glob("claim-*.expired"))


def test_a_stale_claim_is_named_and_tried_again(plan, store, local):
    run = plan(ONE).runs[0].training.run
    heartbeat = _claimed_elsewhere(store, run, -7200)
    (line,) = silent_lines(plan(ONE))
    assert "a is claimed by pid 7 on elsewhere" in line
    assert "silent for 2h00m" in line
    launched = launch(plan(ONE), local(workers=1), dry_run=True)
    assert launched.pending == 1
    os.utime(heartbeat)
    assert launch(plan(ONE), local(workers=1), dry_run=True).pending == 0
    assert silent_lines(plan(ONE)) == []


def test_locks_that_dead_processes_left_stop_nobody(plan, local, store):
    """Their files stay, but the lock of a file goes with its process."""
    before = plan(ONE)
    launch(before, local(workers=1), dry_run=True)
    workers = before.state.workers
    workers.mkdir(parents=True)
    (workers / "choosing.lock").write_text("")
    local(workers=1).start(before.state.folder, 0)
    dead = Owner.here(attempt=0).to_dict() | {"pid": 2**22 + 1}
    Slot(workers, 1).path.write_text(json.dumps({"owner": dead, "run": "x"}))
    assert held_slots(workers) == []
    launch(plan(ONE), local(workers=1))
    eventually(lambda: plan(ONE).complete)
    assert next_entry(before.state) is None


def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A file system of its own at `folder`."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def read_only(project):
    yield from mounted(project / "results", "ro")


@pytest.fixture
def full(project):
    for folder in mounted(project / "results", "size=4k,nr_inodes=3"):
        (folder / "filler").write_bytes(bytes(4096))
        yield folder


@pytest.mark.parametrize("state", ["read_only", "full"])
def test_a_results_folder_that_takes_nothing_is_one_message_before_anything_starts(
    plan, local, state, request
):
    request.getfixturevalue(state)
    before, launcher = plan(TEN), local(workers=3)
    with pytest.raises(StorageError) as caught:
        launch(before, launcher)
    assert "results" in str(caught.value)
    assert launcher.alive(before.state.folder) == []
