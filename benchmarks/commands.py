"""Starting vexp's commands as a user does, each in a fresh process, and timing them whole."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Took:
    """One command from its start to its end."""

    wall_s: float
    cpu_s: float  # less moved by what else the machine does


def vexp(*arguments: str) -> list[str]:
    """A command line of vexp."""
    return [sys.executable, "-m", "vexp", *arguments]


def timed(command: list[str], folder: Path, times: int = 3, codes: Collection[int] = (0,)) -> Took:
    """The median of some starts that end with one of these exit codes.

    Raises:
        RuntimeError: if it fails; the message ends with what it printed.
    """
    taken = []
    for _ in range(times):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
        wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode not in codes:
            raise RuntimeError(f"{command} failed:\n{done.stderr.decode()[-2000:]}")
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        taken.append(Took(wall, cpu))
    return Took(
        statistics.median(took.wall_s for took in taken),
        statistics.median(took.cpu_s for took in taken),
    )


def lines(commands: dict[str, Took], limits_s: dict[str, float]) -> list[str]:
    """One line per command."""
    found = []
    for name, took in commands.items():
        limit = limits_s.get(name)
        allowed = "" if limit is None else f"   (at most {limit:g})"
        found.append(f"{name:28}{took.wall_s:8.2f} s {took.cpu_s:8.2f} s CPU{allowed}")
    return found
