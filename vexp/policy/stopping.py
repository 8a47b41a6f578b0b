"""Stopping within a step, before its updates: what it has done so far is given up.

A step at the size of a paper takes minutes, and a scheduler's notice is short. Until the first
update nothing has changed but what the step itself holds, so the state before it is saved, and a
resumed run does the step again, to the last bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from vexp.policy import parallel

_requested: Callable[[], bool] | None = None


class Abandoned(Exception):
    """The step was given up; the policy and the state are as they were before it."""


@contextlib.contextmanager
def heeding(requested: Callable[[], bool]) -> Iterator[None]:
    """Within the block `check` and `check_together` heed a request to stop."""
    global _requested
    former, _requested = _requested, requested
    try:
        yield
    finally:
        _requested = former


def check() -> None:
    """Called between tokens and micro-batches; of several processes none may go by itself.

    Raises:
        Abandoned: if the run is to stop.
    """
    if _requested is not None and parallel.world_size() == 1 and _requested():
        raise Abandoned


def check_together() -> None:
    """Called by all processes of a run, between the batches of a step.

    Raises:
        Abandoned: in all of them, if any is to stop.
    """
    if _requested is not None and parallel.any_rank(_requested()):
        raise Abandoned
