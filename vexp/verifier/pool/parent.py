"""The parent's side of the worker processes: hand out tasks, enforce the time limit, replace.

Workers are fresh interpreters, not forks or `multiprocessing` children: they import neither torch
nor the parent's main module, and hold none of its memory.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vexp.errors import VexpError
from vexp.verifier.base import Verdict, Verifier
from vexp.verifier.pool.worker import describe

MOST_WORKERS = 4
STARTUP_S = 120.0  # a worker that is not ready by then never will be
_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); " + (
    "from vexp.verifier.pool.worker import main; main()"
)


@dataclass
class _Worker:
    """One process; `task` is the index of the response it is judging, if any."""

    process: subprocess.Popen[bytes]
    deadline: float
    ready: bool = False
    task: int | None = None
    pending: bytearray = field(default_factory=bytearray)

    def send(self, message: dict[str, Any]) -> bool:
        """Write one line; False if the worker is gone."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message).encode("ascii") + b"\n")
            self.process.stdin.flush()
        except (BrokenPipeError, OSError):
            return False
        return True

    def receive(self) -> list[dict[str, Any]] | None:
        """The complete messages that have arrived; None once the worker is gone."""
        assert self.process.stdout is not None
        chunk = os.read(self.process.stdout.fileno(), 1 << 16)
        if not chunk:
            return None
        *whole, rest = (bytes(self.pending) + chunk).split(b"\n")
        self.pending = bytearray(rest)
        return [json.loads(line) for line in whole]

    def end(self) -> None:
        """Kill the process, wait for it, and close its pipes."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # a line that was never read by a killed worker
                    continue


class Pool:
    """Worker processes for one verifier; they stay until `close` or the end of this process."""

    def __init__(self, verifier: Verifier, limit_s: float) -> None:
        self._description = describe(verifier)
        self._limit_s = limit_s
        self._size = min(MOST_WORKERS, os.cpu_count() or 1)
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._false_starts = 0
        self.owner = os.getpid()

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """The verdict on each (response, gold), in order."""
        with self._lock:
            verdicts: list[Verdict | None] = [None] * len(pairs)
            waiting = deque(range(len(pairs)))
            try:
                while waiting or any(worker.task is not None for worker in self._workers):
                    self._hire(len(waiting))
                    self._hand_out(pairs, waiting)
                    self._collect(verdicts, waiting)
            except BaseException:  # also Ctrl-C: what is still under way belongs to nobody
                self.close()
                raise
            return [verdict for verdict in verdicts if verdict is not None]

    def close(self) -> None:
        """End all workers; the next `judge` starts new ones."""
        while self._workers:
            self._dismiss(self._workers[-1])

    def _hire(self, waiting: int) -> None:
        free = sum(worker.task is None for worker in self._workers)
        for _ in range(min(self._size - len(self._workers), waiting - free)):
            process = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            worker = _Worker(process, time.monotonic() + STARTUP_S)
            self._workers.append(worker)
            self._selector.register(process.stdout, selectors.EVENT_READ, worker)  # type: ignore[arg-type]
            worker.send(self._description)

    def _dismiss(self, worker: _Worker) -> None:
        self._selector.unregister(worker.process.stdout)  # type: ignore[arg-type]
        self._workers.remove(worker)
        worker.end()

    def _hand_out(self, pairs: Sequence[tuple[str, str]], waiting: deque[int]) -> None:
        for worker in list(self._workers):
            if not waiting or not worker.ready or worker.task is not None:
                continue
            response, gold = pairs[waiting[0]]
            worker.deadline = time.monotonic() + self._limit_s
            if worker.send({"response": response, "gold": gold}):
                worker.task = waiting.popleft()
            else:  # it died while idle
                self._lose(worker)

    def _collect(self, verdicts: list[Verdict | None], waiting: deque[int]) -> None:
        """Wait for the next answer or deadline, then settle everything that is due."""
        due = [w.deadline for w in self._workers if w.task is not None or not w.ready]
        if not due:
            return
        for key, _ in self._selector.select(max(0.0, min(due) - time.monotonic())):
            worker: _Worker = key.data
            messages = worker.receive()
            if messages is None:
                self._settle(worker, verdicts, Verdict(0.0, None, "crashed"))
                self._lose(worker)
                continue
            for message in messages:
                self._read(worker, message, verdicts)
        now = time.monotonic()
        for worker in list(self._workers):
            if worker.deadline > now:
                continue
            if not worker.ready:
                raise self._failure(f"a worker process was not ready after {STARTUP_S:g} s")
            if worker.task is not None:
                self._settle(worker, verdicts, Verdict(0.0, None, "timeout"))
                self._lose(worker)

    def _read(
        self, worker: _Worker, message: dict[str, Any], verdicts: list[Verdict | None]
    ) -> None:
        if "failed" in message:
            raise self._failure(message["failed"])
        if "ready" in message:
            worker.ready = True
        else:
            verdict = Verdict(message["correct"], message["extracted"], message["status"])
            self._settle(worker, verdicts, verdict)

    def _settle(self, worker: _Worker, verdicts: list[Verdict | None], verdict: Verdict) -> None:
        if worker.task is not None:
            verdicts[worker.task] = verdict
            self._false_starts = 0
        worker.task = None

    def _lose(self, worker: _Worker) -> None:
        """Dismiss a worker that died or hangs; give up if workers die without any verdict."""
        self._dismiss(worker)
        self._false_starts += 1
        if self._false_starts > 2 * self._size:
            code = worker.process.returncode
            raise self._failure(f"its worker processes end at once (exit status {code})")

    def _failure(self, reason: str) -> VexpError:
        name = self._description["name"]
        return VexpError(
            f"verifier {name!r} cannot start: {reason}",
            where=self._description["plugin"] or f"vexp.verifier.{name}",
            remedy="it is built anew in a worker process; mend the reason given, or choose another",
        )


_pools: dict[str, Pool] = {}


def pool_for(verifier: Verifier) -> Pool:
    """The pool of this process for verifiers equal to this one."""
    if verifier.time_limit_s is None:
        raise ValueError(f"verifier {verifier.name!r} has no time limit")
    key = json.dumps(describe(verifier), sort_keys=True)
    pool = _pools.get(key)
    if pool is None or pool.owner != os.getpid():  # a fork must not share its parent's pipes
        pool = _pools[key] = Pool(verifier, verifier.time_limit_s)
    return pool


@atexit.register
def close_all() -> None:
    """End all workers that this process started."""
    for pool in list(_pools.values()):
        if pool.owner == os.getpid():
            pool.close()
    _pools.clear()
