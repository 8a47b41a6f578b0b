"""Trackers are told what happens; they never stop a run."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.train.fakes import Folder
from vexp.errors import ConfigError
from vexp.registry import REGISTRY
from vexp.spec.resolve import resolve
from vexp.tracker.base import Tracker
from vexp.train.tracking import tracking


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fragile(Tracker):
    """Fails at the given moment, otherwise writes down what it is told."""

    name = "fragile"
    fails: str = ""
    heard: list = dataclasses.field(default_factory=list)

    def start(self, *, run_id, folder, config):
        self.hear("start", run_id, folder, config["algorithm"]["name"])
        return SimpleNamespace(
            log=lambda step, metrics: self.hear("log", step, dict(metrics)),
            close=lambda: self.hear("close"),
        )

    def hear(self, what, *rest):
        if what == self.fails:
            raise ConnectionError("the network is down")
        self.heard.append((what, *rest))


def track(tmp_path, **trackers):
    workspace = Folder(tmp_path)
    run = dataclasses.replace(resolve([]), tracker=trackers)
    with tracking(run, workspace) as told:
        told.log(1, {"reward": 0.5})
        told.log(2, {"reward": 0.6})
    return workspace


def test_a_tracker_is_started_told_and_closed(tmp_path):
    tracker = Fragile()
    assert track(tmp_path, main=tracker).notes == []
    assert tracker.heard == [
        ("start", "test-run", tmp_path / "tracking", "grpo"),
        ("log", 1, {"reward": 0.5}),
        ("log", 2, {"reward": 0.6}),
        ("close",),
    ]


@pytest.mark.parametrize("moment", ["start", "log", "close"])
def test_a_failing_tracker_is_noted_once_and_the_others_go_on(tmp_path, moment):
    broken, sound = Fragile(fails=moment), Fragile()
    notes = track(tmp_path, first=broken, second=sound).notes
    assert len(notes) == 1
    assert "tracker 'first' failed" in notes[0]
    assert "the network is down" in notes[0]
    assert [what for what, *_ in sound.heard] == ["start", "log", "log", "close"]


def test_trackers_are_closed_when_training_fails(tmp_path):
    tracker = Fragile()
    run = dataclasses.replace(resolve([]), tracker={"main": tracker})
    with pytest.raises(KeyboardInterrupt), tracking(run, Folder(tmp_path)):
        raise KeyboardInterrupt
    assert tracker.heard[-1] == ("close",)


def test_none_does_nothing(tmp_path):
    assert track(tmp_path, main=REGISTRY.get("tracker", "none")()).notes == []
    assert list((tmp_path / "tracking").iterdir()) == []


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_missing_package_is_a_problem_of_the_composition(name, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == name else real(n, *a)
    )
    with pytest.raises(ConfigError, match=f"package '{name}' is not installed") as caught:
        resolve([f"+tracker.main={name}"])
    assert f"pip install 'vexp[{name}]'" in str(caught.value)
    assert "tracker.main" in str(caught.value)


def test_a_folder_called_wandb_is_not_the_package(project, monkeypatch):
    """`wandb` leaves such a folder behind wherever it was used."""
    code = (
        "import sys\n"
        "from vexp.tracker.base import missing_package\n"
        "sys.path[:] = ['.']\n"
        "print([str(p) for p in missing_package('wandb', extra='wandb')])"
    )
    (project / "wandb").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        check=True,
    )
    assert "not installed" in done.stdout


def test_tensorboard_writes_events_and_hides_what_is_repeated_after_a_resume(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = REGISTRY.get("tracker", "tensorboard")()
    for steps in ([1, 2, 3], [3, 4]):  # killed after 3, resumed from the checkpoint of 2
        told = tracker.start(run_id="r", folder=tmp_path, config={})
        for step in steps:
            told.log(step, {"reward/accuracy": step / 10})
        told.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    scalars = events.Scalars("reward/accuracy")
    assert [s.step for s in scalars] == [1, 2, 3, 4]
    assert [s.value for s in scalars] == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_wandb_works_offline_without_an_account_and_keeps_its_id(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    tracker = REGISTRY.get("tracker", "wandb")(project="p")
    for step in (1, 2):
        told = tracker.start(run_id="grpo-digits-s1-abc", folder=tmp_path, config={"seed": 1})
        told.log(step, {"reward": 0.5})
        told.close()
    wandb_id = json.loads((tmp_path / "wandb.json").read_text())["id"]
    runs = [p.name for p in (tmp_path / "wandb").glob("offline-run-*")]
    assert len(runs) == 2
    assert all(wandb_id in name for name in runs)


def test_wandb_online_without_a_key_does_not_wait_for_one(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    notes = track(tmp_path, main=REGISTRY.get("tracker", "wandb")(mode="online")).notes
    assert len(notes) == 1
    assert "WANDB_API_KEY" in notes[0]
