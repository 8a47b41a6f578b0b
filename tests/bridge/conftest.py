"""The Python that has lmms-eval; the tests that need it are skipped where there is none."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def eval_python() -> str:
    """A Python with lmms-eval and vexp: VEXP_EVAL_PYTHON, .venv-eval, or this one."""
    named = os.environ.get("VEXP_EVAL_PYTHON")
    own = ROOT / ".venv-eval" / "bin" / "python"
    if named:
        return named
    if own.exists():
        return str(own)
    if importlib.util.find_spec("lmms_eval") is None:
        pytest.skip("lmms-eval is not installed: `make setup-eval` makes an environment with it")
    return sys.executable
