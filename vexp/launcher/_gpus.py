"""This machine's GPUs, shared out among the workers of a launch; counted without torch."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from vexp.errors import Problem

if TYPE_CHECKING:
    from vexp.spec.run import RunSpec

VARIABLE = "CUDA_VISIBLE_DEVICES"
_DRIVER = Path("/proc/driver/nvidia/gpus")  # a folder for each GPU
_TIMEOUT_S = 20
_LISTED = re.compile(r"^(?:GPU (\d+):|\s+MIG .*UUID: (MIG-[^)]+))", re.MULTILINE)


def installed() -> list[str]:
    """The GPUs of this machine by the names that CUDA takes; slices of one that is cut by MIG."""
    command = shutil.which("nvidia-smi")
    if command is not None:
        try:
            found = subprocess.run(
                [command, "-L"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
            )
        except (OSError, subprocess.SubprocessError):
            pass
        else:
            return listed(found.stdout)
    return [str(number) for number, _ in enumerate(_DRIVER.iterdir())] if _DRIVER.is_dir() else []


def listed(text: str) -> list[str]:
    """The names in what `nvidia-smi -L` prints."""
    names: list[str] = []
    for number, part in _LISTED.findall(text):
        if part and names and not names[-1].startswith("MIG-"):
            names.pop()  # the GPU itself, which is not to be had beside its slices
        names.append(part or number)
    return names


def visible(environment: Mapping[str, str]) -> list[str]:
    """The GPUs that processes with this environment may use."""
    names = installed()
    chosen = environment.get(VARIABLE)
    if not names or chosen is None:
        return names
    given = (name.strip() for name in chosen.split(","))
    return list(takewhile(lambda name: name and not name.startswith("-"), given))


def of_worker(number: int, workers: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The variable that gives worker `number`, from 1, its even share; none without enough GPUs."""
    names = visible(environment)
    each = len(names) // workers
    if not each:
        return {}
    return {VARIABLE: ",".join(names[(number - 1) * each : number * each])}


def problem(
    runs: Iterable[RunSpec], workers: int, environment: Mapping[str, str]
) -> Problem | None:
    """What to say where the workers' runs need more GPUs than there are; None if they fit."""
    needs = [run.processes for run in runs if run.compute.device != "cpu"]
    if not needs or not (count := len(visible(environment))):
        return None
    most = max(needs)
    if most * workers <= count:
        return None
    each = "a GPU" if most == 1 else f"{most} GPUs (compute.processes={most})"
    fits = count // most
    return Problem(
        f"{workers} workers at once need {each} each, and {count} can be used on this machine",
        where=f"launcher.workers={workers}",
        accepted=f"{fits} fit" if fits else "not one fits",
        remedy=(f"set launcher.workers={fits}" if fits else f"lower compute.processes to {count}")
        + ", or compute.device=cpu for runs that use no GPU",
    )


def placement(workers: int, environment: Mapping[str, str]) -> str:
    """Which GPUs each worker gets, for a reader; empty on a machine without any."""
    shares = [of_worker(n, workers, environment).get(VARIABLE) for n in range(1, workers + 1)]
    return "; ".join(f"worker {n} has GPU {share}" for n, share in enumerate(shares, 1) if share)
