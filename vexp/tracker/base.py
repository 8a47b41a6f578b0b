"""What a tracker is: someone who is told while a run trains. It never decides anything."""

from __future__ import annotations

import importlib.util
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from vexp.errors import Problem
from vexp.registry import Component


class Tracking(Protocol):
    """An open connection to a tracker."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Tracker(Component):
    """Opens a connection for one run."""

    kind: ClassVar[str] = "tracker"

    @abstractmethod
    def start(self, *, run_id: str, folder: Path, config: Mapping[str, Any]) -> Tracking:
        """Begin or continue tracking the run `run_id`; files go below `folder`."""


def missing_package(package: str, *, extra: str) -> Iterator[Problem]:
    """A problem if a package that a tracker needs is not installed; it is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:  # no origin: just a folder of that name
        yield Problem(
            f"the package {package!r} is not installed",
            remedy=f"pip install 'vexp[{extra}]', or remove this tracker",
        )
