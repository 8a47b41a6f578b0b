"""Handing job arrays to Slurm through submitit, and asking beforehand whether it would take them.

submitit writes the script, with its arrays, set-up lines and signals. What the script runs is a
command of ours: no function and no state travels in a pickle (docs/decisions/0007).
"""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.helpers import clean_env
from submitit.slurm.slurm import SlurmExecutor

from vexp.errors import suggest
from vexp.sweeps import slurm
from vexp.sweeps.slurm import Partition, SlurmError

# What `sbatch --test-only` says of jobs that would wait instead of starting now.
_ONLY_BUSY = ("nodes are busy", "node not available", "down, drained or reserved")
# It says so of jobs that no node is large enough for, but also while all those nodes are drained.
_NO_NODE = "node configuration is not available"


class ArrayExecutor(SlurmExecutor):
    """submitit's executor, with the script's command and the array's size given by us."""

    handed: Mapping[str, str] = {}  # variables that sbatch hands on to the job

    def submit_tasks(self, command: str, count: int) -> str:
        """The job id of `count` tasks that each run `command`, a line of shell.

        Raises:
            SlurmError: Slurm refuses.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.parameters["map_count"] = count
        with _outside_of_jobs(self.handed):
            try:
                return str(self._submit_command(command).job_id)
            except (FailedJobError, FailedSubmissionError) as error:
                said = [line for line in str(error).splitlines() if line.strip()]
                raise refused(said[-1] if said else "no reason given") from error

    def would_take(self, command: str) -> str:
        """Why Slurm would never run such a job; empty if it would."""
        script = self._make_submission_file_text(command, "")
        with _outside_of_jobs():
            done = subprocess.run(
                ["sbatch", "--test-only"], input=script.encode(), capture_output=True, check=False
            )
        said = done.stderr.decode(errors="replace").strip()
        busy = any(text in said.lower() for text in _ONLY_BUSY)
        return "" if done.returncode == 0 or busy else said.replace("\n", "; ")


def executor(folder: Path, settings: Mapping[str, Any], handed: Mapping[str, str]) -> ArrayExecutor:
    """An executor whose logs go to `folder`; `settings` are submitit's names."""
    made = ArrayExecutor(folder, python="python")
    made.handed = handed
    made.update_parameters(**settings)
    return made


def check(made: ArrayExecutor, partition: str | None, time_min: int) -> None:
    """Raises:
    SlurmError: no Slurm here, or the cluster has no such partition, or never such resources.
    """
    if not slurm.here():
        raise slurm.no_slurm()
    known = slurm.partitions()
    names = {entry.name for entry in known}
    if partition is not None and (unknown := set(partition.split(",")) - names):
        name = sorted(unknown)[0]
        raise SlurmError(
            f"this cluster has no partition {name!r}",
            where="launcher.partition",
            accepted=suggest(name, names),
        )
    wanted = set((partition or slurm.default_partition() or "").split(","))
    there = [entry for entry in known if entry.name in wanted]
    _check_limit(there, time_min)
    _check_nodes(there, made.parameters.get("nodes") or 1)
    said = made.would_take("true")
    if said and not (_NO_NODE in said and any(entry.fits(*_wanted(made)) for entry in there)):
        raise refused(said, there)


def refused(said: str, there: list[Partition] | None = None) -> SlurmError:
    """The message for a job that Slurm does not take, with what its partition has."""
    return SlurmError(
        f"Slurm refuses such jobs: {said}",
        where="launcher (partition, gpus, cpus, mem_gb, account, qos, constraint, sbatch)",
        accepted="; ".join(map(str, there or ())),
        remedy="" if there is None else "nothing was submitted",
    )


def _wanted(made: ArrayExecutor) -> tuple[int, int, int]:
    """CPUs, megabytes and GPUs that a job asks for."""
    settings = made.parameters
    memory = str(settings.get("mem") or "0MB").removesuffix("MB")
    return settings.get("cpus_per_task") or 1, int(memory), settings.get("gpus_per_node") or 0


def _check_limit(there: list[Partition], time_min: int) -> None:
    """Slurm takes a job that is longer than its partition allows, and never starts it."""
    limits = [entry.limit_min for entry in there]
    longest = max((limit for limit in limits if limit is not None), default=None)
    if longest is not None and None not in limits and time_min > longest:
        raise SlurmError(
            f"{time_min} min are more than the partition allows",
            where="launcher.time_min",
            accepted=f"at most {longest:g} min; a run that needs longer goes on in a further job",
        )


def _check_nodes(there: list[Partition], nodes: int) -> None:
    """Slurm takes a job on more nodes than its partition has, and never starts it."""
    most: Counter[str] = Counter()
    for entry in there:
        most[entry.name] += entry.node_count
    if most and nodes > max(most.values()):
        raise SlurmError(
            f"a run on {nodes} nodes is more than the partition has",
            where="launcher.nodes",
            accepted=f"at most {max(most.values())}",
        )


@contextmanager
def _outside_of_jobs(handed: Mapping[str, str] = MappingProxyType({})) -> Iterator[None]:
    """Without what a surrounding job's environment would say about this one, and with `handed`."""
    conf = os.environ.get("SLURM_CONF")
    with clean_env():
        if conf is not None:
            os.environ["SLURM_CONF"] = conf
        os.environ.update(handed)
        try:
            yield
        finally:
            for name in handed:
                os.environ.pop(name, None)
