"""Runs that take no time: a stub of training, and a recording reporter."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import stub_training

from vexp.config.compose import resolve
from vexp.registry import REGISTRY
from vexp.runs.heartbeat import Timing
from vexp.runs.store import RunStore

PLUGIN = Path(__file__).with_name("stub_plugin.py")
STUBS = (
    f"plugins=['{PLUGIN}']",
    "backbone=stub",
    "evaluator.heldout={name:stub}",
    "warm_start.steps=2",
    "rl.steps=7",
    "checkpoint.every=3",
)


class Recorder:
    """A reporter that keeps what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[tuple[str, int]] = []

    def progress(self, stage, step, total, metrics) -> None:
        self.steps.append((stage, step))

    def note(self, text) -> None:
        self.notes.append(text)


@pytest.fixture
def reporter():
    return Recorder()


@pytest.fixture
def timing():
    return Timing(interval_s=0.05, expiry_s=0.6, poll_s=0.02)


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "results")


@pytest.fixture
def stub_run(monkeypatch):
    """A function from overrides to a run whose training is the stub's."""
    stub_training.install(lambda name, module: monkeypatch.setitem(sys.modules, name, module))
    yield lambda *overrides: resolve([*STUBS, *overrides])
    REGISTRY._plugins.pop(PLUGIN, None)
    for kind in ("backbone", "evaluator"):
        REGISTRY._classes.pop((kind, "stub"), None)
