"""Handing job arrays to Slurm through submitit, and asking beforehand whether it would take them.

submitit writes the script, with its arrays, set-up lines and signals. What the script runs is a
command of ours: no function and no state travels in a pickle (docs/decisions/0008).
"""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from submitit.helpers import clean_env
from submitit.slurm.slurm import SlurmExecutor, _make_sbatch_string

from vexp.errors import suggest
from vexp.files import write_text
from vexp.sweeps import slurm
from vexp.sweeps.slurm import Partition, SlurmError, Unanswered

SCRIPT = "submission.sh"
_LOGS = "/folder of the logs"  # stands for it in submitit's text; its spaces have it quoted
# What `sbatch --test-only` says of jobs that would wait instead of starting now.
_ONLY_BUSY = ("nodes are busy", "node not available", "down, drained or reserved")
# It says so of jobs that no node is large enough for, but also while all those nodes are drained.
_NO_NODE = "node configuration is not available"


class ArrayExecutor(SlurmExecutor):
    """submitit's executor, with the script's command and the array's size given by us."""

    handed: Mapping[str, str] = {}  # variables that sbatch hands on to the job

    def submit_tasks(self, command: str, count: int) -> str:
        """The job id of `count` tasks that each run `command`, a line of shell.

        Where sbatch fails or does not answer although it did submit, the job is found by its name.

        Raises:
            SlurmError: Slurm refuses, or does not answer.
        """
        self.parameters["map_count"] = count
        script = self.folder / SCRIPT
        write_text(script, self._make_submission_file_text(command, ""))
        with _outside_of_jobs(self.handed):
            try:
                done = slurm.call("sbatch", str(script))
            except Unanswered as error:
                if job := slurm.named(self.parameters["job_name"]):
                    return job
                raise SlurmError(
                    f"{error.problem.what}, and its job is not in the queue (yet)",
                    remedy="the same command finds the job if it comes, and submits nothing twice",
                ) from error
            given = re.search(rb"job (\d+)", done.stdout)
            if done.returncode == 0 and given:
                return given[1].decode()
            if job := slurm.named(self.parameters["job_name"]):
                return job
        lines = [line for line in slurm.complaint(done).splitlines() if line.strip()]
        raise refused(
            lines[-1]
            if done.returncode
            else f"sbatch says {done.stdout.decode(errors='replace').strip()!r}, which names no job"
        )

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        """submitit's script, with the folder of the logs as it is: `%` would begin a pattern."""
        logs = shlex.quote(f"{_LOGS} {self.folder}")[len(_LOGS) + 2 : -1].replace("%", "%%")
        text = _make_sbatch_string(command=command, folder=_LOGS, **self.parameters)
        return text.replace(_LOGS, logs)

    def would_take(self, command: str) -> str:
        """Why Slurm would never run such a job; empty if it would."""
        script = self._make_submission_file_text(command, "")
        with _outside_of_jobs():
            done = slurm.call("sbatch", "--test-only", script=script.encode())
        said = slurm.complaint(done)
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
    _check_path(made.folder)
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


def _check_path(logs: Path) -> None:
    """Slurm writes no log to such a path, or Python reads no code from it: jobs die without one."""
    bad = {"\\": "a backslash", ":": "a colon", "\n": "a line break", "\r": "a line break"}
    if names := [name for character, name in bad.items() if character in str(logs)]:
        raise SlurmError(
            f"jobs cannot work in a folder with {names[0]} in its name",
            where=repr(str(logs)),
            remedy="choose another results_dir",
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
