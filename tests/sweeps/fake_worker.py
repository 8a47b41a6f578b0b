"""Stands for `vexp _work STATE --slot N`: a real worker whose runs are fake_run.py, or another."""

from __future__ import annotations

import sys
from pathlib import Path

from vexp.sweeps.state import SweepState
from vexp.sweeps.worker import work

if __name__ == "__main__":
    fake = Path(__file__).with_name(sys.argv[3] if len(sys.argv) > 3 else "fake_run.py")
    work(SweepState(Path(sys.argv[1])), int(sys.argv[2]), command=[sys.executable, str(fake)])
