"""Slurm's own commands, and what they say. Everything here asks the cluster; nothing is kept."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from vexp.errors import RunError
from vexp.runs.failure import Kind

COMMANDS = ("sbatch", "squeue", "scontrol", "scancel", "sinfo")
LIMIT_S = 60.0  # for each of them
_SOME = 200  # job ids that are put into one command line

# What a job's last state says about the run in it; what is missing here says nothing.
_KINDS: dict[str, Kind] = {
    "OUT_OF_MEMORY": "oom",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "PREEMPTED": "preempted",
    "CANCELLED": "interrupted",
    "NODE_FAIL": "infra",
    "BOOT_FAIL": "infra",
    "FAILED": "infra",
    "COMPLETED": "infra",
}


class SlurmError(RunError):
    """Slurm is missing, does not answer, or refuses."""


class Unanswered(SlurmError):
    """A command did not end in time."""


@dataclass(frozen=True)
class Job:
    """One job that waits or runs; each task of an array is one."""

    id: str  # `12` or `12_3`
    name: str
    state: str  # PENDING, RUNNING, COMPLETING, …
    node: str
    reason: str  # why it waits

    @property
    def runs(self) -> bool:
        return self.state not in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")


@dataclass(frozen=True)
class Partition:
    """One partition and one kind of node in it."""

    name: str
    limit_min: float | None  # longest time of a job; None: no limit
    cpus: str
    memory_mb: str
    gpus: str
    nodes: str

    @property
    def node_count(self) -> int:
        """Nodes of this kind, whatever state they are in."""
        return _number(self.nodes)

    def fits(self, cpus: int, memory_mb: int, gpus: int) -> bool:
        """Whether such a node is large enough, whatever state it is in."""
        per_type = re.findall(r"gpu(?::[^:(,]+)?:(\d+)", self.gpus)
        has = (_number(self.cpus), _number(self.memory_mb), max(map(int, per_type), default=0))
        return all(
            there >= wanted for there, wanted in zip(has, (cpus, memory_mb, gpus), strict=True)
        )

    def __str__(self) -> str:
        limit = "no limit" if self.limit_min is None else f"up to {self.limit_min:g} min"
        gpus = "" if self.gpus in ("", "(null)") else f", {self.gpus}"
        return (
            f"{self.name}: {self.nodes} nodes of {self.cpus} CPUs, {self.memory_mb} MB{gpus}, "
            f"{limit}"
        )


def here() -> bool:
    """Whether this machine can talk to a cluster."""
    return all(shutil.which(name) for name in COMMANDS)


def ask(*command: str) -> str:
    """What a Slurm command prints.

    Raises:
        SlurmError: it is not there, fails, or does not answer in time.
    """
    done = call(*command)
    if done.returncode:
        raise SlurmError(
            f"`{command[0]}` failed: {complaint(done)}",
            remedy="is the controller up? (`scontrol ping`) The same command can be tried again",
        )
    return done.stdout.decode(errors="replace")


def call(*command: str, script: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a Slurm command to its end, with `script` as its input; with all it started, it is killed
    where that takes too long.

    Raises:
        SlurmError: it is not there.
        Unanswered: it does not end in time.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise no_slurm() from error
    with process:
        try:
            out, err = process.communicate(script, timeout=LIMIT_S)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise unanswered(command[0], LIMIT_S) from error
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def complaint(done: subprocess.CompletedProcess[bytes]) -> str:
    """The complaint of a command that failed."""
    return done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"


def unanswered(command: str, seconds: float) -> Unanswered:
    """The message for a command that does not end."""
    return Unanswered(
        f"Slurm does not answer: `{command}` did not end in {seconds:.0f} s",
        remedy="is the controller up? (`scontrol ping`) The same command can be tried again",
    )


def no_slurm() -> SlurmError:
    """The message for a machine that has no Slurm."""
    missing = [name for name in COMMANDS if not shutil.which(name)]
    return SlurmError(
        f"there is no Slurm on this machine: {', '.join(missing)} not found",
        remedy="launch from a login node of the cluster, or use launcher=local",
    )


def jobs() -> list[Job]:
    """This user's jobs that wait or run."""
    lines = ask("squeue", "--me", "-h", "-a", "-r", "-o", "%i|%T|%N|%r|%j").splitlines()
    rows = [line.strip().split("|", 4) for line in lines if line.count("|") >= 4]
    return [Job(id, name, state, node, reason) for id, state, node, reason, name in rows]  # noqa: A001


def named(name: str) -> str | None:
    """The id of this user's job or array with that name which waits or runs."""
    return next((job.id.partition("_")[0] for job in jobs() if job.name == name), None)


def ended(ids: Collection[str]) -> dict[str, str]:
    """State by id of jobs that have ended, as far as anybody remembers: `OUT_OF_MEMORY`, …"""
    found: dict[str, str] = {}
    for some in _chunks(sorted(ids)):
        try:
            fields = ("-X", "-n", "-P", "-o", "JobID,State")
            text = ask("sacct", *fields, *(f"-j{each}" for each in some))
        except Unanswered:
            break
        except SlurmError:  # a cluster without accounting: its controller remembers for a while
            found |= {each: state for each in some if (state := _remembered(each))}
            continue
        for line in text.splitlines():
            name, _, state = line.partition("|")
            found[name] = state.split(" ")[0]
    return found


def last_states(ids: Collection[str]) -> dict[str, str]:
    """As `ended`, with an empty state for jobs of which nobody knows any more.

    What cannot be asked now is left out.
    """
    states = ended(ids)
    for each in sorted(set(ids) - states.keys()):
        state = _remembered(each)
        if state is None:
            break
        states[each] = state
    return states


def _remembered(job: str) -> str | None:
    """The state of a job that the controller knows, empty if it knows none; None: no answer."""
    try:
        done = call("scontrol", "show", "job", "-o", job)
    except SlurmError:
        return None
    if done.returncode:
        return "" if "invalid job id" in complaint(done).lower() else None
    return _fields(done.stdout.decode(errors="replace")).get("JobState")


def kind_of(state: str) -> Kind:
    """What a job's last state says about the end of the run in it."""
    return _KINDS.get(state, "infra")


def show(job: str) -> dict[str, str]:
    """What the controller knows of a job; nothing if it does not know it or does not answer."""
    try:
        text = ask("scontrol", "show", "job", "-o", job)
    except SlurmError:
        return {}
    return _fields(text)


def _fields(text: str) -> dict[str, str]:
    """The settings in the first line of what scontrol shows."""
    return dict(re.findall(r"(\S+?)=(\S*)", text.splitlines()[0] if text else ""))


def cancel(waiting: Sequence[str], running: Sequence[str]) -> None:
    """Take waiting jobs out of the queue, and ask running ones to save and end."""
    for some in _chunks(waiting):
        ask("scancel", "--state=PENDING", *some)
    for some in _chunks(running):
        ask("scancel", "--signal=TERM", *some)


def requeue(job: str, within_s: float = 45.0) -> bool:
    """Put a running job back into the queue; tried for a while, as controllers restart."""
    end = time.monotonic() + within_s
    while True:
        try:
            ask("scontrol", "requeue", job)
        except SlurmError:
            if time.monotonic() > end:
                return False
            time.sleep(1.0)
        else:
            return True


def max_array_size() -> int:
    """How many tasks an array may have here."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"), re.M)
    return max(1, int(found[1]) if found else 1001)


def partitions() -> list[Partition]:
    """The partitions that this user may see, one entry for each kind of node in them."""
    text = ask("sinfo", "-h", "-o", "%R|%l|%c|%m|%G|%D")
    rows = (line.strip().split("|") for line in text.splitlines() if line.count("|") == 5)
    return [Partition(name, minutes(limit), *rest) for name, limit, *rest in rows]


def default_partition() -> str | None:
    """The partition of a job that asks for none."""
    names = [name for name in ask("sinfo", "-h", "-o", "%P").split() if name.endswith("*")]
    return names[0].rstrip("*") if names else None


def minutes(text: str) -> float | None:
    """Slurm's times in minutes: `1-02:00:00`, `30:00`, `UNLIMITED`; None: without a limit."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if not found:
        return None
    days, hours, mins, seconds = (int(part or 0) for part in found.groups())
    return days * 1440 + hours * 60 + mins + seconds / 60


def _number(text: str) -> int:
    """`4000` and `4000+`, which sinfo says of nodes that differ."""
    return int(text.rstrip("+") or 0)


def _chunks(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), _SOME):
        yield items[start : start + _SOME]
