"""Stands for `vexp _work STATE --slot N`: a real worker whose runs are fake_run.py."""

from __future__ import annotations

import sys
from pathlib import Path

from vexp.sweeps.state import SweepState
from vexp.sweeps.worker import work

if __name__ == "__main__":
    fake = Path(__file__).with_name("fake_run.py")
    work(SweepState(Path(sys.argv[1])), int(sys.argv[2]), command=[sys.executable, str(fake)])
