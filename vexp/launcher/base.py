"""What a launcher is: where the runs of a sweep run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from vexp.registry import Component


@dataclass(frozen=True)
class Worker:
    """A worker that was started or found alive."""

    name: str
    log: Path


@dataclass(frozen=True, kw_only=True)
class Launcher(Component):
    """Starts workers for a sweep; what it submits is only "work on run X"."""

    kind: ClassVar[str] = "launcher"

    @abstractmethod
    def start(self, state: Path, pending: int) -> Sequence[Worker]:
        """Start the workers that are missing for `pending` runs; returns those started now.

        `state` is the sweep's state folder, all that a worker is told.
        """

    @abstractmethod
    def alive(self, state: Path) -> Sequence[Worker]:
        """The workers that are serving the sweep now."""

    @abstractmethod
    def stop(self, state: Path) -> Sequence[Worker]:
        """Ask all workers to save and end, without waiting; returns those that were asked."""
