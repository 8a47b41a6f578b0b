"""Fixtures for all tests."""

from __future__ import annotations

import gc
import os
import signal
from importlib.util import find_spec

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that runs the tests in the background has them ignore Ctrl-C, and all that they start too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Machines differ in speed, and so do first calls; a slow example is no failure.
settings.register_profile("vexp", deadline=None)
settings.load_profile("vexp")


def pytest_runtest_setup(item):
    if item.get_closest_marker("deepspeed") and not find_spec("deepspeed"):
        pytest.skip("DeepSpeed is not installed: `make setup-deepspeed`, `make test-deepspeed`")


def pytest_collection_finish():
    """Leave what was imported and collected out of every garbage collection to come."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter):
    """Print why a test was tried again, where CI asks for it: it is a fault all the same."""
    for report in terminalreporter.stats.get("rerun", []):
        terminalreporter.section(f"tried again: {report.nodeid}", sep="_")
        terminalreporter.line(report.longreprtext)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty folder of a user, as the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def registry(monkeypatch):
    """The registry; what a test adds is gone afterwards."""
    from vexp.registry import REGISTRY

    before = dict(REGISTRY._classes)
    monkeypatch.setattr(REGISTRY, "_plugins", dict(REGISTRY._plugins))
    yield REGISTRY
    # A shipped component that was first imported here stays: its module will not run again.
    shipped = {key: c for key, c in REGISTRY._classes.items() if c.__module__.startswith("vexp.")}
    REGISTRY._classes.clear()
    REGISTRY._classes.update(shipped | before)
