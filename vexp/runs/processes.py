"""The other processes of a run: started once it is claimed, watched, and gone when it is.

The process that owns the run's folder leads; it is the one that was asked to run it, and the one
that stops, fails and exits for all. The others (`vexp _follow`) do a share of the work and hold
nothing that is not on disk; so they end, at any moment, when their standard input closes, which it
does whenever the first process is gone. Those on other nodes are one step of the same Slurm job.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import site
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import vexp
from vexp.errors import ConfigError, Interrupted, Problem, ProcessLost
from vexp.runs import meeting
from vexp.runs.meeting import COMING_S
from vexp.spec.problems import spread_of

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

    from vexp.runs.meeting import Meeting
    from vexp.runs.workspace import RunWorkspace
    from vexp.spec.run import Compute, RunSpec

_LEAVING_S = 20.0  # and to end, once there is nothing left to do
_NOTICING_S = 60.0  # after which a process that cannot be told of a loss is killed
_POLL_S = 0.1
FAILED, HERE = "failed", "here"  # keys in the store
BEREFT = 75  # exit code of a process that ended because it lost the others
# A warning that comes before Python has said what it means must not end a process.
_UNWARNED = ("sh", "-c", 'trap "" USR2; exec "$@"', "vexp")
_SRUN = ("--overlap", "--kill-on-bad-exit=1", "--mpi=none", "--unbuffered")


@dataclass(frozen=True)
class Topology:
    """On how many nodes a run is, with how many processes on each."""

    nodes: int = 1
    per_node: int = 1

    @property
    def processes(self) -> int:
        return self.nodes * self.per_node

    def __str__(self) -> str:
        on_each = f"{self.nodes} nodes with {self.per_node} each"
        return str(self.processes) if self.nodes == 1 else f"{self.processes} ({on_each})"


ALONE = Topology()


def span_of(run: RunSpec, given: Topology | None) -> Topology:
    """What a run spans: what its launcher gives, or else `compute.processes` on this machine.

    Raises:
        ConfigError: the two contradict each other, or this machine has too few GPUs, or lacks
            what spreads the moments.
    """
    asked = run.compute.processes
    if given is not None and asked not in (None, given.processes):
        raise ConfigError(
            Problem(
                f"{asked} processes are asked for, and the launcher has started this run for "
                f"{given}",
                where="compute.processes",
                remedy="leave compute.processes out (null), or let the launcher give as many",
            )
        )
    others = int(os.environ.get("WORLD_SIZE") or 1)
    if others > 1:
        raise ConfigError(
            Problem(
                f"this process was started as one of {others} (WORLD_SIZE is set)",
                where="torchrun, accelerate launch or the like",
                remedy=f"start one process: compute.processes={others} has it start the others",
            )
        )
    span = given or Topology(1, asked or 1)
    if span.processes == 1 and run.compute.shard != "none":
        raise ConfigError(
            Problem(
                "this run has one process, which has nobody to share its "
                f"{spread_of(run.compute.shard)} with",
                where=f"compute.shard={run.compute.shard}",
                remedy="set compute.processes, or compute.shard=none",
            )
        )
    if run.compute.shard in ("zero1", "zero2"):
        from vexp.policy import zero

        zero.check(run.compute.shard)
    if span.processes > 1:
        check_gpus(run.compute, span.per_node)
    return span


def check_gpus(compute: Compute, processes: int) -> None:
    """Raises:
    ConfigError: this machine computes on GPUs and has fewer than processes.
    """
    import torch

    from vexp.train.device import device_name

    if device_name(compute) == "cuda" and torch.cuda.device_count() < processes:
        raise ConfigError(
            Problem(
                f"{processes} processes on one machine need as many GPUs, and torch sees "
                f"{torch.cuda.device_count()} on {socket.gethostname()}",
                where="compute.processes (Slurm: launcher.tasks_per_node, launcher.gpus)",
                accepted="one process per GPU",
            )
        )


@contextlib.contextmanager
def together(run: RunSpec, workspace: RunWorkspace, config: Path, span: Topology) -> Iterator[None]:
    """Run the block as the first of `span` processes; the others do what `config` says.

    Raises:
        ProcessLost: another process failed or is gone; it says why.
        Interrupted: a stop was requested while they were starting.
    """
    if span.processes == 1:
        yield
        return
    import torch

    from vexp.policy import parallel
    from vexp.train.device import device_name

    threads = torch.get_num_threads()
    share = max(1, threads // span.per_node)
    with meeting.held(span.nodes) as met:
        followers = _Followers.start(config, span, met, share)
        workspace.log(
            f"{span} processes; they meet at {socket.gethostname()}, {met.far or met.near}"
        )
        try:
            torch.set_num_threads(share)
            with followers.watched(workspace.note):
                _await_all(met.store, followers, span, workspace.stop_requested)
                with parallel.member(met.store, 0, span.processes, device_name(run.compute)):
                    yield
            followers.wait()
        except ProcessLost as lost:
            if workspace.stop:
                raise Interrupted(
                    "stopped; what was saved before stays",
                    remedy="the same command goes on from there",
                ) from lost
            raise _explained(lost, met.store, followers, workspace) from lost
        finally:
            torch.set_num_threads(threads)
            followers.end()


class _Followers:
    """The processes besides the first, by what they are called."""

    def __init__(
        self, commands: Mapping[str, Sequence[str]], threads: int, more: Mapping[str, str]
    ) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)} | dict(more)
        code = str(Path(vexp.__file__).parents[1])
        if code not in site.getsitepackages():  # they have to run the very code that runs here
            known = environment.get("PYTHONPATH")
            environment["PYTHONPATH"] = f"{code}{os.pathsep}{known}" if known else code
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for name, command in commands.items():
                # In a session of its own: what a terminal or Slurm tells a whole process group, the
                # first process passes on between two steps.
                self._processes[name] = subprocess.Popen(
                    command, stdin=subprocess.PIPE, env=environment, start_new_session=True
                )
        except BaseException:
            self.end()
            raise

    @classmethod
    def start(cls, config: Path, span: Topology, met: Meeting, threads: int) -> _Followers:
        """Start them all: on this node as children, elsewhere by Slurm."""
        base = [sys.executable, "-P", "-m", "vexp", "_follow", str(config.absolute())]
        base += ["--world", str(span.processes)]
        commands: dict[str, Sequence[str]] = {}
        for rank in range(1, span.per_node):
            place = ["--at", met.near, "--rank", str(rank), "--local-rank", str(rank)]
            commands[f"process {rank}"] = [*_UNWARNED, *base, *place]
        if met.far is not None:
            place = ["--at", met.far, "--rank", str(span.per_node)]
            elsewhere = [*_srun(span), *_UNWARNED, *base, *place, "--slurm"]
            commands["a process on another node"] = elsewhere
        return cls(commands, threads, met.environment)

    def lost(self) -> tuple[str, int] | None:
        """One that has ended badly, with its exit code; one that others ended for, if there is."""
        codes = [
            (name, code) for name, process in self._processes.items() if (code := process.poll())
        ]
        return min(codes, key=lambda found: found[1] == BEREFT, default=None)

    @contextlib.contextmanager
    def watched(self, note: Callable[[str], None]) -> Iterator[None]:
        """While the block runs, the loss of one is an error in it, wherever it is.

        An operation on a GPU may wait for ever for a process that is gone, and hears of nothing. If
        the block has not ended after a while, this process ends as if killed from outside.
        """
        over = threading.Event()

        def hear(_number: int, _frame: FrameType | None) -> None:
            if not over.is_set():
                raise ProcessLost("another process of this run is gone")

        def watch() -> None:
            while not over.wait(_POLL_S):
                if self.lost() is None:
                    continue
                if main:
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                if not over.wait(_NOTICING_S):
                    note("another process of this run is gone, and this one waits for it: killed")
                    os.kill(os.getpid(), signal.SIGKILL)
                return

        main = threading.current_thread() is threading.main_thread()
        former: Any = signal.signal(signal.SIGUSR1, hear) if main else None
        thread = threading.Thread(target=watch, name="vexp-followers", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            if main:
                signal.signal(signal.SIGUSR1, former)

    def wait(self) -> None:
        """Give them the time to end by themselves."""
        end = time.monotonic() + _LEAVING_S
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))

    def end(self) -> None:
        """End what is left of them; what runs elsewhere has a moment to hear of it."""
        for process in self._processes.values():
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
        for process in self._processes.values():
            try:
                process.wait(5.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _srun(span: Topology) -> list[str]:
    """The command that starts the processes on the run's other nodes, which follow the first."""
    elsewhere, cpus = span.nodes - 1, int(os.environ.get("SLURM_CPUS_PER_TASK") or 1)
    return [
        "srun",
        *_SRUN,
        f"--nodes={elsewhere}",
        "--relative=1",
        f"--ntasks={elsewhere * span.per_node}",
        f"--ntasks-per-node={span.per_node}",
        f"--cpus-per-task={max(1, cpus // span.per_node)}",
    ]


def _await_all(
    store: Store, followers: _Followers, span: Topology, stopping: Callable[[], bool]
) -> None:
    """Wait until the others are there, as long as none of them ends."""
    end = time.monotonic() + COMING_S
    while (here := store.add(HERE, 0)) < span.processes - 1:
        if stopping():
            raise Interrupted("stopped while its other processes were starting")
        if followers.lost() is not None or time.monotonic() > end:
            raise ProcessLost(f"only {here + 1} of {span} processes have started")
        time.sleep(_POLL_S)


def _explained(
    lost: ProcessLost, store: Store, followers: _Followers, workspace: RunWorkspace
) -> ProcessLost:
    """The loss as the process that caused it tells, or else as its end does."""
    end = time.monotonic() + 3.0
    while not _has(store, FAILED):
        gone = followers.lost()
        if (gone is not None and gone[1] != BEREFT and gone[1] != 1) or time.monotonic() > end:
            return _ended(lost, gone)
        time.sleep(_POLL_S)
    said = json.loads(store.get(FAILED))
    workspace.log(f"process {said['rank']}: {said['traceback']}")
    error = ProcessLost(
        said["message"], where=f"process {said['rank']}; its traceback is in the log"
    )
    error.kind, error.exit_code = said["kind"], said["exit_code"]
    return error


def _has(store: Store, key: str) -> bool:
    """Whether the store has the key; a process that was killed may have left it damaged."""
    try:
        return store.check([key])
    except RuntimeError:
        return False


def _ended(lost: ProcessLost, gone: tuple[str, int] | None) -> ProcessLost:
    if gone is None or gone[1] == BEREFT:
        return lost
    name, code = gone
    killed = {-code, code - 128} & {number.value for number in signal.Signals}
    how = f"killed by {signal.Signals(killed.pop()).name}" if killed else f"exit code {code}"
    return ProcessLost(
        f"{name} of this run has ended: {how}",
        where=socket.gethostname(),
        remedy="the same command goes on from the last checkpoint",
    )
