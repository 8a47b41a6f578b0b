"""Tests with vLLM itself; skipped where it is not installed, as in the core environment."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SKIPPED = "vLLM is not installed here: `make test-vllm` makes an environment with it"


def pytest_collection_modifyitems(items):
    here = importlib.util.find_spec("vllm") is not None
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.vllm)
            item.add_marker(pytest.mark.xdist_group("vllm"))  # one vLLM is enough
            item.add_marker(
                pytest.mark.timeout(1200)
            )  # it starts once per model, in a minute or so
            if not here:
                item.add_marker(pytest.mark.skip(reason=SKIPPED))


@pytest.fixture(scope="session", autouse=True)
def stopped():
    """No vLLM outlives the tests."""
    yield
    if importlib.util.find_spec("vllm") is not None:
        from vexp.engine import _vllm

        _vllm.close()
