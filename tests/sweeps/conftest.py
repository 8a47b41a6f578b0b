"""Sweeps in an empty folder, and run folders as training would have left them."""

from __future__ import annotations

import os
import stat
import sys
import time
from pathlib import Path

import pytest

from tests.sweeps.fabricate import Fabricate
from vexp.launcher.local import Local
from vexp.runs.store import RunStore
from vexp.sweeps import slurm
from vexp.sweeps.launch import launch
from vexp.sweeps.plan import make_plan, refreshed
from vexp.sweeps.reader import read_sweep

HERE = Path(__file__).parent
SMALL = """
base: [evaluator.heldout.size=50]
rows:
  one: {label: Row one, algorithm: grpo}
  two: {label: Row two, algorithm: dapo}
seeds: [1, 2]
table:
  columns:
    - {metric: accuracy, label: All, scale: percent}
    - {metric: accuracy/single, label: Single, scale: percent}
"""


@pytest.fixture
def sweep(project):
    """A function from the text of a sweep file to its path."""

    def write(text: str = SMALL, name: str = "small") -> Path:
        path = project / f"{name}.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def plan(sweep):
    """A function from the text of a sweep file to its plan now; each text is composed once."""
    made = {}

    def make(text: str = SMALL):
        if text in made:
            return refreshed(made[text])
        made[text] = make_plan(read_sweep(sweep(text)))
        return made[text]

    return make


@pytest.fixture
def store(project):
    return RunStore(project / "results")


@pytest.fixture
def fabricate(store):
    made = Fabricate(store)
    yield made
    made.release()


class FakeLocal(Local):
    """The local launcher, with workers whose runs do not train (see fake_run.py)."""

    def command(self, state: Path, number: int) -> list[str]:
        script = os.environ.get("FAKE_SCRIPT", "fake_run.py")
        return [sys.executable, str(HERE / "fake_worker.py"), str(state), str(number), script]


@pytest.fixture
def local(monkeypatch):
    """A function that makes such a launcher; its workers are stopped in the end."""
    monkeypatch.setenv("PYTHONPATH", str(HERE.parents[1]))
    states: set[Path] = set()

    class Stopped(FakeLocal):
        def start(self, state: Path, pending: int):
            states.add(state)
            return super().start(state, pending)

    launchers = []

    def make(**settings):
        launchers.append(Stopped(**settings))
        return launchers[-1]

    yield make
    for state in states:
        launchers[0].stop(state)
        eventually(lambda state=state: not launchers[0].alive(state))


ONE = "rows: {a: {stages: [rl]}}\nseeds: [1]"


class Nobody:
    """A launcher that starts nothing."""

    def check_runs(self, runs):
        pass

    def start(self, state, pending):
        return []

    def alive(self, state):
        return []


def eventually(condition, timeout_s: float = 180.0) -> None:
    """Wait until a condition holds; the test fails if it never does."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A function that makes a command print something; each call of it is noted in `calls`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(name: str, says: str = "", code: int = 0) -> None:
        path = folder / name
        (folder / f"{name}.says").write_text(says)
        path.write_text(
            f'#!/bin/sh\necho "{name} $*" >> {folder}/calls\ncat {path}.says\nexit {code}\n'
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    for name in slurm.COMMANDS:
        make(name)
    make("sacct", code=1)
    make.calls = folder / "calls"
    return make


@pytest.fixture
def folder(plan, fabricate, store):
    """The folder of a run that was launched, and its sweep's state."""
    launch(plan(ONE), Nobody())
    return plan(ONE).state, store.runs()[0]


@pytest.fixture
def trials(monkeypatch):
    """The workers' runs are those of fake_trial.py: trials of a search, without torch."""
    monkeypatch.setenv("FAKE_SCRIPT", "fake_trial.py")
    monkeypatch.setenv("PYTHONPATH", str(HERE.parents[1]))
