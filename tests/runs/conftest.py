"""Runs that take no time: a stub of training, and a recording reporter."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

import pytest

from tests.runs import processes, stub_training
from vexp.registry import REGISTRY
from vexp.runs.heartbeat import Timing
from vexp.runs.store import RunStore
from vexp.spec.resolve import resolve
from vexp.spec.run import RunSpec

PLUGIN = Path(__file__).with_name("stub_plugin.py")
STUB_COMPONENTS = (("backbone", "stub"), ("evaluator", "stub"))
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


@pytest.fixture(autouse=True)
def no_process_stays():
    yield
    processes.end_all()


@pytest.fixture
def reporter():
    return Recorder()


@pytest.fixture
def timing():
    return Timing(interval_s=0.05, expiry_s=0.6, poll_s=0.02)


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "results")


@functools.cache
def resolved(*overrides: str) -> RunSpec:
    return resolve([*STUBS, *overrides])


@pytest.fixture(scope="session")
def stub_components():
    """The stub's component classes, loaded once: equal runs of two tests are equal."""
    REGISTRY.load_plugins([PLUGIN])
    digest = REGISTRY._plugins.pop(PLUGIN)
    return digest, {key: REGISTRY._classes.pop(key) for key in STUB_COMPONENTS}


@pytest.fixture
def stub_run(monkeypatch, stub_components):
    """A function from overrides to a run whose training is the stub's."""
    digest, classes = stub_components
    monkeypatch.setitem(REGISTRY._plugins, PLUGIN, digest)
    for key, cls in classes.items():
        monkeypatch.setitem(REGISTRY._classes, key, cls)
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # no power cut is part of these tests
    stub_training.install(lambda name, module: monkeypatch.setitem(sys.modules, name, module))
    return resolved
