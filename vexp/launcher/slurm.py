"""Runs as tasks of Slurm job arrays."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vexp import masking
from vexp.config.types import Count, Positive, PositiveInt
from vexp.errors import Problem
from vexp.launcher.base import Launcher, Worker
from vexp.registry import register

if TYPE_CHECKING:
    from vexp.spec.run import RunSpec
    from vexp.sweeps.sbatch import ArrayExecutor

# A warning that comes before Python has said what it means must not end the task.
_HANDED = "VEXP_JOB_"  # begins the variables in which sbatch hands values on to a job
_ASSIGNED = re.compile(r"([A-Za-z_]\w*)=(?![$\"']*\$)[^\s,]")  # with a value, not a reference
_UNWARNED = """bash -c 'trap "" USR2; exec "$@"' vexp"""


@register("launcher", "slurm")
@dataclass(frozen=True, kw_only=True)
class Slurm(Launcher):
    """Each run is one task of a Slurm job array, submitted through submitit; nothing waits for it.

    What is submitted is only "work on run X"; the code that runs is a copy made at submission. Runs
    save and requeue themselves ahead of a time limit or a preemption.
    """

    searches = True
    settles = True

    workers: PositiveInt = 16  # runs at the same time, of one submission or of a search
    partition: str | None = None  # null: the cluster's default
    account: str | None = None  # who pays
    qos: str | None = None  # quality of service
    constraint: str | None = None  # features that a node must have
    gpus: Count = 1  # per run, on each of its nodes
    cpus: PositiveInt = 4  # per run, on each of its nodes
    mem_gb: Positive | None = None  # per run, on each of its nodes; null: what the cluster gives
    time_min: PositiveInt = 240  # limit of one start of a run; it goes on after it
    signal_delay_s: PositiveInt = 120  # notice before the limit: updates and a checkpoint must fit
    nodes: PositiveInt = 1  # per run
    tasks_per_node: PositiveInt = 1  # processes of a run on each node: one per GPU
    engine_nodes: Count = 0  # per run, beside those; a run with engine.nodes asks for them itself
    setup: tuple[str, ...] = ()  # lines of shell before the run: modules, environments
    sbatch: dict[str, str] = field(default_factory=dict)  # further options; "" for a bare flag
    # `pull` is what happens anyway where a node may not submit.
    successor: Literal["submit", "pull"] = "submit"  # of a search: a new job, or the same one
    python: str | None = None  # command on the nodes; null: the interpreter that launches

    def problems(self, run: RunSpec) -> Iterator[Problem]:
        yield from super().problems(run)
        yield from self._secret_problems()
        processes = self.nodes * self.tasks_per_node
        if run.compute.processes not in (None, processes):
            yield Problem(
                f"{run.compute.processes} processes are asked for, and {self.nodes} node(s) with "
                f"{self.tasks_per_node} process(es) on each are {processes}",
                where="compute.processes and launcher.nodes, launcher.tasks_per_node",
                remedy="leave compute.processes out: the launcher decides",
            )
        if self.tasks_per_node > self.cpus:
            yield Problem(
                f"{self.tasks_per_node} processes cannot share {self.cpus} CPUs",
                where="launcher.tasks_per_node and launcher.cpus",
                accepted="at least one CPU for each process of a node",
            )
        if self.gpus and self.tasks_per_node > self.gpus and run.compute.device != "cpu":
            yield Problem(
                f"{self.tasks_per_node} processes cannot share {self.gpus} GPU(s)",
                where="launcher.tasks_per_node and launcher.gpus",
                accepted="one process per GPU, or compute.device=cpu",
            )
        yield from self._engine_problems(run, processes)
        if 60 * self.time_min < self.signal_delay_s + 60:
            yield Problem(
                f"a limit of {self.time_min} min leaves no time to train: runs are told to save "
                f"{self.signal_delay_s} s before it, and Slurm may be a minute early",
                where="launcher.time_min, launcher.signal_delay_s",
                remedy="allow more time, or give less notice",
            )

    def _engine_problems(self, run: RunSpec, processes: int) -> Iterator[Problem]:
        asked = run.engine.resources.get("engine_nodes", 0)
        if self.engine_nodes not in (0, asked):
            yield Problem(
                f"{self.engine_nodes} node(s) are asked for engines, and the engine uses {asked}",
                where="launcher.engine_nodes and engine.nodes",
                remedy="leave launcher.engine_nodes out: engine.nodes asks for them",
            )
        engines = -(-processes // asked) if asked else self.tasks_per_node
        size = getattr(run.engine, "tensor_parallel", 1)
        if self.gpus and engines * size > self.gpus and size > 1 and run.compute.device != "cpu":
            yield Problem(
                f"{engines} engine(s) on a node, each on {size} GPU(s) "
                f"(engine.tensor_parallel), are more than its {self.gpus}",
                where="launcher.gpus",
                remedy="lower engine.tensor_parallel, or give engines more nodes (engine.nodes)",
            )

    def start(self, state: Path, pending: int) -> Sequence[Worker]:
        from vexp.sweeps import arrays, slurm
        from vexp.sweeps.state import SweepState

        if not slurm.here():
            raise slurm.no_slurm()
        return arrays.submit_missing(SweepState(state.resolve()), self)

    def alive(self, state: Path) -> Sequence[Worker]:
        from vexp.sweeps import arrays, slurm
        from vexp.sweeps.state import SweepState

        return arrays.watched(SweepState(state.resolve())) if slurm.here() else ()

    def end(self, worker: Worker) -> None:
        from vexp.sweeps import slurm

        slurm.ask("scancel", worker.name)

    def stop(self, state: Path) -> Sequence[Worker]:
        from vexp.sweeps import arrays, slurm
        from vexp.sweeps.state import SweepState

        if not slurm.here():
            raise slurm.no_slurm()
        return arrays.cancel(SweepState(state.resolve()))

    def check(self, logs: Path) -> None:
        """Raises:
        SlurmError: there is no Slurm here, or it would never run such a job.
        """
        from vexp.sweeps.sbatch import check

        check(self._executor(logs, "vexp-check", Path()), self.partition, self.time_min)

    def submit(self, logs: Path, name: str, code: Path, work: Sequence[str], count: int) -> str:
        """Submit an array of `count` tasks that run `vexp WORK` from `code`; its job id.

        Raises:
            SlurmError: Slurm refuses.
        """
        python = self.python or shlex.quote(sys.executable)
        spread = [f"--nodes={self.nodes}", f"--processes-per-node={self.tasks_per_node}"]
        command = f"{_UNWARNED} {python} -P -u -m vexp {shlex.join([*work, *spread])}"
        return self._executor(logs, name, code).submit_tasks(command, count)

    def _executor(self, logs: Path, name: str, code: Path) -> ArrayExecutor:
        from vexp.sweeps.sbatch import executor

        settings: dict[str, Any] = {
            "job_name": name,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "gpus_per_node": self.gpus or None,
            "cpus_per_task": self.cpus,
            "mem": f"{round(self.mem_gb * 1024)}MB" if self.mem_gb else None,
            "time": self.time_min,
            "nodes": self.nodes + self.engine_nodes,
            "ntasks_per_node": 1,  # the one in charge; it starts the run's other processes
            "signal_delay_s": self.signal_delay_s,
            "array_parallelism": self.workers,
            "wckey": None,
            "stderr_to_stdout": True,
            "setup": [*self._exports(), *self.setup, _python_path(code)],
            # Since Slurm 22.05 srun does not take over what the job asked for.
            "srun_args": [
                f"--cpus-per-task={self.cpus}",
                "--open-mode=append",
                "--nodes=1",
                "--ntasks=1",
                "--relative=0",  # the run's own nodes come first, those of its engines last
            ],
            "additional_parameters": {"requeue": True}
            | {key.replace("_", "-"): value or True for key, value in self.sbatch.items()},
        }
        handed = {f"{_HANDED}{name}": value for name, value in self.given().items()}
        return executor(logs, settings, handed)

    def _exports(self) -> list[str]:
        """Lines of the script, which is kept: values come with the environment of sbatch."""
        own = {"OMP_NUM_THREADS": self.cpus, "VEXP_SIGNAL_DELAY_S": self.signal_delay_s}
        lines = [f"export {name}={value}" for name, value in own.items()]
        lacking = "launcher.environment has not come with the job (sbatch --export)"
        return lines + [
            f'export {name}="${{{_HANDED}{name}?{lacking}}}"' for name in self.environment
        ]

    def _secret_problems(self) -> Iterator[Problem]:
        """What would keep a value in the job's script, or the environment from the job."""
        texts = {"launcher.setup": " ".join(self.setup)}
        texts |= {f"launcher.sbatch.{name}": value for name, value in self.sbatch.items()}
        for where, text in texts.items():
            for name in _ASSIGNED.findall(text):
                if masking.is_secret_name(name):
                    yield Problem(
                        f"{name} looks like a secret, and its value would be kept in job scripts",
                        where=where,
                        remedy="set it in the shell that launches, or in launcher.environment",
                    )
        exported = self.sbatch.get("export")
        if self.environment and exported is not None and exported.partition(",")[0] != "ALL":
            yield Problem(
                f"with export={exported} the job would not get launcher.environment",
                where="launcher.sbatch.export",
                accepted="ALL, or ALL with more after a comma",
            )


def _python_path(code: Path) -> str:
    """The submitted code comes first, whatever is installed."""
    return f'export PYTHONPATH={shlex.quote(str(code))}"${{PYTHONPATH:+:$PYTHONPATH}}"'
