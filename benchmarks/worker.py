"""One side of an alternating benchmark: a process that makes a step when told to, and reports it.

Each side is a process of its own, so that neither meets the other's patches, caches, thread pools
or allocator; they wait for each other, so that only one computes at a time. The time of a step is
taken inside the worker, from the command's arrival to the step's end: the pipe is not in it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Step:
    """What one step took."""

    seconds: float
    cpu_seconds: float  # of all threads: less moved by what else the machine does
    phases: dict[str, float]  # seconds of generate, score, update
    facts: dict[str, float]  # what the sides must agree on, e.g. response tokens


class WorkerError(RuntimeError):
    """A worker ended; the message ends with what it had printed."""


class Worker(AbstractContextManager["Worker"]):
    """The parent's handle of a side: start it, ask it for steps, stop it."""

    def __init__(self, name: str, module: str, settings: Mapping[str, Any], threads: int) -> None:
        self.name = name
        self.peak_memory_mb = 0.0
        self._log = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115  (closed in __exit__)
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(dict(settings))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )

    def step(self) -> Step:
        """Make one step.

        Raises:
            WorkerError: if the worker has ended.
        """
        answer = self._ask("step")
        self.peak_memory_mb = answer["peak_memory_mb"]
        return Step(answer["seconds"], answer["cpu_seconds"], answer["phases"], answer["facts"])

    def _ask(self, command: str) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._process.wait()
            self._log.seek(0)
            printed = self._log.read()[-3000:]
            code = self._process.returncode
            raise WorkerError(f"{self.name} ended with code {code}:\n{printed}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


class Seat:
    """The worker's end: waits for commands between steps and sends what each step took.

    Whatever the worker's libraries print goes to stderr; only answers go to the parent.
    """

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._started = 0.0
        self._cpu_started = 0.0
        self._phases: dict[str, float] = {}

    def wait(self) -> bool:
        """Block until the parent asks for a step; False when no more are wanted."""
        self._phases = {}
        asked = bool(sys.stdin.readline())
        self._started, self._cpu_started = time.perf_counter(), time.process_time()
        return asked

    def spend(self, phase: str, seconds: float) -> None:
        """Add to the time of a phase of the current step."""
        self._phases[phase] = self._phases.get(phase, 0.0) + seconds

    def spent(self, phase: str) -> float:
        """Seconds of a phase of the current step so far."""
        return self._phases.get(phase, 0.0)

    def elapsed(self) -> float:
        """Seconds since the current step was asked for."""
        return time.perf_counter() - self._started

    def report(self, facts: Mapping[str, float], rest: str) -> None:
        """The step is done: send it. Time in no phase is called `rest`."""
        seconds = self.elapsed()
        self.spend(rest, seconds - sum(self._phases.values()))
        answer = {
            "seconds": seconds,
            "cpu_seconds": time.process_time() - self._cpu_started,
            "phases": self._phases,
            "facts": dict(facts),
            "peak_memory_mb": _peak_memory_mb(),
        }
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()


def _peak_memory_mb() -> float:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def alternate(workers: Sequence[Worker], *, warm: int, timed: int) -> dict[str, list[Step]]:
    """Let the workers step in turn; the order turns round each time. Warm steps are dropped."""
    steps: dict[str, list[Step]] = {worker.name: [] for worker in workers}
    for turn in range(warm + timed):
        for worker in workers if turn % 2 == 0 else reversed(workers):
            step = worker.step()
            if turn >= warm:
                steps[worker.name].append(step)
    return steps
