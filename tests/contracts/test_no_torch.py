"""Components are named, built and checked without torch: composing must stay fast."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
from vexp.registry import KINDS, REGISTRY
for kind in KINDS:
    for name in REGISTRY.names(kind):
        cls = REGISTRY.get(kind, name)
        loaded = {"torch", "transformers", "accelerate", "wandb"} & set(sys.modules)
        assert not loaded, f"{kind} {name} imports {loaded}"
"""


def test_no_component_imports_torch_at_its_top():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
