"""Real processes for tests: started together, watched, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STARTED: list[subprocess.Popen[str]] = []


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process that runs `code`; its arguments are in sys.argv[1:]."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    STARTED.append(process)
    return process


def output(process: subprocess.Popen[str], timeout_s: float = 60) -> str:
    """What a process printed; fails if it failed."""
    out, error = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, error
    return out.strip()


def wait_for(condition, timeout_s: float = 30, every_s: float = 0.02) -> None:
    """Fails if `condition` does not become true."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(every_s)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def end_all() -> None:
    """Kill what a failed test left running."""
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            kill(process)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
