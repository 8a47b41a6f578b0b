"""Reading many files with several processes: most of it is waiting for the file system."""

from __future__ import annotations

import itertools
import os
import pickle
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

AT_LEAST = 1000  # items per process; below, starting one takes longer than it saves
AT_MOST = 8  # processes


def in_parts(read: Callable[[Sequence[T]], R], items: Sequence[T]) -> list[R]:
    """`read` of consecutive parts of `items`, in order; all but the first in forked processes.

    One part where there are few items, one core, or a process that cannot be forked safely. A part
    whose process fails is read here, so an error is the one that `read` raises.
    """
    count = max(1, min(len(items) // AT_LEAST, _cores(), AT_MOST))
    bounds = [len(items) * part // count for part in range(count + 1)]
    parts = [items[start:end] for start, end in itertools.pairwise(bounds)]
    begun = [_begin(read, part) for part in parts[1:]]
    found = [read(parts[0])]
    for part, (process, answer) in zip(parts[1:], begun, strict=True):
        with os.fdopen(answer, "rb") as stream:
            content = stream.read()
        _, status = os.waitpid(process, 0)
        # Pickled by a copy of this very process and read at once; never from a file.
        found.append(pickle.loads(content) if status == 0 else read(part))  # noqa: S301
    return found


def _begin(read: Callable[[Sequence[T]], R], part: Sequence[T]) -> tuple[int, int]:
    """A forked process that reads a part: its number, and the pipe on which its answer comes."""
    answer, told = os.pipe()
    process = os.fork()
    if process:
        os.close(told)
        return process, answer
    status = 1
    try:
        with os.fdopen(told, "wb") as stream:
            stream.write(pickle.dumps(read(part), pickle.HIGHEST_PROTOCOL))
        status = 0
    finally:
        os._exit(status)  # says nothing: the process that waits does the same and says it


def _cores() -> int:
    """How many processes may work at once; 1 where one with threads would have to be forked."""
    unsafe = threading.active_count() > 1 or "torch" in sys.modules or not hasattr(os, "fork")
    return 1 if unsafe or sys.platform == "darwin" else len(os.sched_getaffinity(0))
