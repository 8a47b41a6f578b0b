"""What a launcher is: where the runs of a sweep run, and how often they are run again."""

from __future__ import annotations

import dataclasses
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from vexp import masking
from vexp.config.types import BY_NAME, Count, Positive, PositiveInt
from vexp.errors import ConfigError, Problem
from vexp.registry import Component

if TYPE_CHECKING:
    from vexp.spec.run import RunSpec

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
STOPPING = "stopping"  # the state of a worker that was asked to stop and is saving
SILENT = "silent"  # of one whose heartbeat is long ago: watched, and replaced if it stays so


@dataclass(frozen=True)
class Worker:
    """A worker that was started or found alive."""

    name: str
    log: Path
    run: str | None = None  # folder name of the run that it is at or waits to begin
    state: str = "running"  # or why it is not yet: "pending", …
    node: str = ""  # the machine it runs on, where that is another one
    reason: str = ""  # why it waits, in the scheduler's words


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How often a run goes on by itself after an end of each kind; then it counts as failed.

    Counted over the attempts at a run since `vexp retry` was last said. Kinds that are missing here
    (config, data, storage, code) come back however often one tries.
    """

    preempted: Count = 100  # stopped for a job of higher priority
    timeout: Count = 20  # stopped by the time limit
    infra: Count = 3  # the machine or its process died, or there was no progress for too long
    oom: Count = 0  # out of memory
    diverged: Count = 0  # a number that is no longer one


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a sweep asks for one run, where that differs from the launcher's own settings.

    A launcher takes those that it has a setting of the same name for; null: as it is set.
    """

    gpus: Count | None = None
    cpus: PositiveInt | None = None
    mem_gb: Positive | None = None
    time_min: PositiveInt | None = None
    nodes: PositiveInt | None = None
    tasks_per_node: PositiveInt | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None

    def asked(self) -> dict[str, Any]:
        """The settings that are not null."""
        named = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Launcher(Component):
    """Starts workers for a sweep; what it submits is only "work on run X"."""

    kind: ClassVar[str] = "launcher"
    searches: ClassVar[bool] = False  # whether its workers propose the trials of a search
    settles: ClassVar[bool] = False  # whether `alive` records what became of lost runs

    retry: Retry = field(default_factory=Retry)  # ends of a run that it survives by itself
    stuck_after_min: Positive | None = 60.0  # stopped after so long without progress; null: never
    # Files keep their names only.
    environment: Annotated[dict[str, str], BY_NAME] = field(
        default_factory=dict  # variables set for the runs
    )

    def __post_init__(self) -> None:
        masking.hide(self.environment)

    def problems(self, run: RunSpec) -> Iterator[Problem]:
        yield from super().problems(run)
        for name in self.environment:
            if not _VARIABLE.fullmatch(name):
                yield Problem(
                    f"{name!r} cannot be the name of a variable",
                    where="launcher.environment",
                    accepted="letters, digits and _, not beginning with a digit",
                )

    def given(self) -> dict[str, str]:
        """`environment` with its values; one that a file kept by name is looked up.

        Raises:
            ConfigError: for every name whose value is not known here.
        """
        known = self.known()
        unknown = [name for name in self.environment if name not in known]
        if unknown:
            raise ConfigError(
                Problem(
                    f"the values of {', '.join(unknown)} are kept nowhere",
                    where="launcher.environment",
                    remedy="set these variables in the shell, then run the same command",
                )
            )
        return known

    def known(self) -> dict[str, str]:
        """`environment` without the names whose values are not known here."""
        found = {name: masking.value_of(name, kept) for name, kept in self.environment.items()}
        return {name: value for name, value in found.items() if value is not None}

    def check_runs(self, runs: Iterable[RunSpec]) -> None:
        """Asked before a sweep's workers are started: whether these runs can run as it would.

        Raises:
            ConfigError: if they cannot.
        """

    def placement(self) -> str:
        """Where on this machine its workers will run, if there is more to say than the settings."""
        return ""

    def asking(self, resources: Mapping[str, Any]) -> Self:
        """This launcher with a run's resources, as far as it knows such settings."""
        own = {field.name for field in dataclasses.fields(self)}
        return dataclasses.replace(self, **{k: v for k, v in resources.items() if k in own})

    @abstractmethod
    def start(self, state: Path, pending: int) -> Sequence[Worker]:
        """Start the workers that are missing for `pending` runs; returns those started now.

        `state` is the sweep's state folder, all that a worker is told.
        """

    @abstractmethod
    def alive(self, state: Path) -> Sequence[Worker]:
        """The workers that are serving the sweep now, or wait to begin."""

    def end(self, worker: Worker) -> None:
        """End a worker that hangs, as far as that is not done by taking its run away."""

    @abstractmethod
    def stop(self, state: Path) -> Sequence[Worker]:
        """Ask all workers to save and end, without waiting; returns those that were asked."""
