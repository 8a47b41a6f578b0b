"""Runs in a Slurm job of two nodes: starts a process on the other one, and writes what came of it.

    python -m tests.slurm.engine_driver FOLDER

With FOLDER/wait there, it ends up waiting, to be killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import torch

from vexp.engine._process import EngineDied, EngineSilent, RemoteProcess

CHILD = """
import os, sys
from pathlib import Path
from vexp.engine._process import Mailbox
home = Path(sys.argv[1])
home.mkdir()
inbox = Mailbox(home, sys.argv[3])
for tensors, plain in inbox:
    node, gpus = os.environ["SLURMD_NODENAME"], os.environ.get("CUDA_VISIBLE_DEVICES", "")
    inbox.reply({"pid": os.getpid(), "node": node, "gpus": gpus, "of": len(plain)}, tensors)
"""


def main(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    count, born = 0, time.monotonic()

    def started() -> tuple[RemoteProcess, dict]:
        nonlocal count
        count += 1
        child = [sys.executable, "-c", CHILD, str(folder / f"home{count}")]
        process = RemoteProcess(child, folder, 100.0, node=1, cpus=2)
        process.send({})
        return process, process.receive()[1]

    found: dict[str, object] = {"here": os.environ["SLURMD_NODENAME"]}
    process, child = started()
    found |= {"there": child["node"], "gpus": child["gpus"]}
    large = torch.randint(0, 255, (200_000_000,), dtype=torch.uint8)
    began = time.monotonic()
    process.send({}, {"large": large})
    found["whole"] = torch.equal(process.receive()[0]["large"], large)
    found["mb_per_s"] = 2 * 200 / (time.monotonic() - began)

    os.kill(child["pid"], signal.SIGKILL)  # all nodes are this machine
    found["killed"] = _broken(process)
    process.end()

    process, child = started()
    os.kill(process.pid, signal.SIGKILL)  # srun alone
    found["srun_killed"] = _broken(process)
    found["srun_killed_left"] = _left(child["pid"])
    process.end()

    process, child = started()
    os.kill(child["pid"], signal.SIGSTOP)
    process.patience_s = 2.0
    found["hangs"] = _broken(process)
    found["hangs_left"] = _left(child["pid"])

    process, child = started()
    process.end()
    found["ended_left"] = _left(child["pid"])

    process, child = started()
    found["last"] = child["pid"]
    found["seconds"] = time.monotonic() - born
    (folder / "aside").write_text(json.dumps(found))
    (folder / "aside").rename(folder / "found.json")
    while (folder / "wait").exists():
        time.sleep(0.1)


def _broken(process: RemoteProcess) -> str:
    """How talking to it ends, which it may take a moment to do."""
    end = time.monotonic() + 20
    try:
        while time.monotonic() < end:
            process.send({})
            process.receive()
    except (EngineDied, EngineSilent) as error:
        return f"{type(error).__name__}: {error.problem.what}"
    return "it still answers"


def _left(pid: int) -> bool:
    """Whether a process is still there after a while."""
    end = time.monotonic() + 10
    while psutil.pid_exists(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return psutil.pid_exists(pid)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
