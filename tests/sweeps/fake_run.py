"""Stands for `vexp _run FOLDER`: no training; what happens is set by the variable FAKE_<seed>.

FAKE_SAVES_S: how long a run takes to save when it is stopped.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.sweeps.fabricate import fail, publish, score
from vexp.config.schema import build
from vexp.files import append_line, read_json
from vexp.runs.claim import Busy, acquire
from vexp.runs.stop import StopRequest
from vexp.runs.store import RunFolder, RunStore
from vexp.spec.run import RunSpec


def scores(folder: Path) -> dict[str, float]:
    """What the run would have reached: a function of its id."""
    return {"accuracy": int(folder.name[-4:], 16) / 16**4, "accuracy/single": 0.5}


def main(folder: Path, config: Path | None) -> int:
    store = RunStore(folder.parents[1])
    run = build(RunSpec, read_json(config)) if config else RunFolder(folder).spec()
    action = os.environ.get(f"FAKE_{run.seed}", "done")
    append_line(store.root / "started.jsonl", {"run": folder.name, "pid": os.getpid()})
    try:
        claim = acquire(folder)
    except Busy:
        return 1
    if claim is None:
        score(store, run, scores(folder))
        return 0
    if action == "exit 7":
        print("a library said: boom 123", flush=True)
        os._exit(7)
    if action == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "fails":
        fail(claim, RuntimeError("no luck"))
        return 1
    with StopRequest() as stop:
        end = time.monotonic() + (600 if action == "slow" else 0.2)
        while time.monotonic() < end:
            if stop:
                time.sleep(float(os.environ.get("FAKE_SAVES_S", "0")))
                claim.release("stopped")
                return stop.exit_code
            time.sleep(0.02)
    publish(claim, run)
    score(store, run, scores(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[3]) if len(sys.argv) > 2 else None))
