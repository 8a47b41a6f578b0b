"""The files that vexp writes for itself, one schema each; `vexp.files.read` checks them on reading.

Fields may be added by a later vexp and are passed over here. A value of another type, a required
field that is missing, a number that is none: the file is damaged, and `remedy` says what to do.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta, Raw, Struct

Positive = Annotated[int, Meta(ge=1)]
Number = Annotated[int, Meta(ge=0)]
_MOVE = "restore it from a backup, or move the folder away and run again"
_AGAIN = "delete this evaluation's folder; `vexp launch`, or `vexp eval RUN`, does it again"


class Versioned(Struct, frozen=True):
    """Only the number of a file's format: of a newer one nothing else is known."""

    format: int
    vexp: str = "unknown"


class Run(Struct, frozen=True):
    """run.json: what the run is. Written once, when its folder is made."""

    newest: ClassVar[int] = 1
    remedy: ClassVar[str] = _MOVE

    format: int
    config: dict[str, Any]
    science: dict[str, Any]
    hash: str = ""
    vexp: str = "unknown"
    imported: bool = False
    # files with code of an imported run: SHA-256 of what may be loaded
    trusted: dict[str, str] = {}


class RunHead(Struct, frozen=True):
    """run.json as a list of runs needs it; config and science are only known to be objects."""

    newest: ClassVar[int] = 1
    remedy: ClassVar[str] = _MOVE

    format: int
    config: Raw
    science: Raw
    hash: str = ""
    vexp: str = "unknown"
    imported: bool = False

    def __post_init__(self) -> None:
        for name in ("config", "science"):
            if memoryview(getattr(self, name))[:1].tobytes() != b"{":
                raise ValueError(f"`{name}` is no object")


class Done(Struct, frozen=True):
    """done.json: which attempt is the published one."""

    remedy: ClassVar[str] = "`vexp run` with the same settings ends the run again"

    attempt: Positive


class Result(Struct, frozen=True):
    """result.json of an attempt: the model that training ended in."""

    newest: ClassVar[int] = 1
    remedy: ClassVar[str] = Done.remedy

    checkpoint: str | None  # the model's folder, seen from the run's; None without a stage
    checkpoint_hash: str
    step: Number = 0  # of the last stage
    format: int = 1


class ProgressRecord(Struct, frozen=True):
    """progress.json of an attempt: how far it is."""

    stage: str = ""
    step: Number | None = None
    total: Number | None = None
    metrics: dict[str, float] = {}
    started: str = ""
    updated: str = ""


class FailureRecord(Struct, frozen=True):
    """failure.json of an attempt: why it ended."""

    newest: ClassVar[int] = 1

    kind: str = "unknown"
    error: str = ""
    message: str = ""
    signature: str = ""
    at: str = ""
    format: int = 1


class Switched(Struct, frozen=True, rename={"former": "from", "engine": "to"}):
    """One switch of a run's engine."""

    step: Number
    former: dict[str, Any]
    engine: dict[str, Any]
    at: str


class Switches(Struct, frozen=True):
    """switches.json of a run that went on with another engine."""

    newest: ClassVar[int] = 1
    remedy: ClassVar[str] = (
        "restore it from a backup; the provenance of the run's last attempt lists the same switches"
    )

    switches: list[Switched]
    format: int = 1


class Metric(Struct, frozen=True, gc=False):
    """One number that an evaluation found."""

    value: float
    stderr: float | None = None
    n: int | None = None


class Results(Struct, frozen=True):
    """results.json of an evaluation."""

    newest: ClassVar[int] = 1
    remedy: ClassVar[str] = _AGAIN

    format: int
    name: str
    key: str
    metrics: dict[str, Metric]
    checkpoint: str = ""
    evaluator: str = ""
    protocol: dict[str, Any] = {}
    scorer: int | float | str = ""
    samples: Number | None = None
    benchmark: str | None = None
    main_metric: str | None = None
    version: int | float | str | None = None

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ValueError("`metrics` is empty")
        if self.benchmark is not None and self.main_metric not in self.metrics:
            raise ValueError("`main_metric` names no metric that is there")

    @property
    def decoding(self) -> str:
        """How the responses were drawn; empty where nothing says it."""
        return str(self.protocol.get("decoding", ""))


class SampleRecord(Struct, frozen=True):
    """A line of samples.jsonl, as far as every evaluator writes it."""

    id: str
    correct: float
    dataset: str = ""
    tag: str = ""
    status: str = ""
    length: Number = 0
    values: dict[str, float | None] = {}


class Listed(Struct, frozen=True):
    """A file of a checkpoint as its manifest has it."""

    sha256: str
    size: Number


class ManifestRecord(Struct, frozen=True):
    """manifest.json of a checkpoint or a stage: every other file of it."""

    newest: ClassVar[int] = 1

    files: dict[str, Listed]
    format: int = 1


class Verified(Struct, frozen=True):
    """What was hashed of a checkpoint's file, and how the file looked then; see runs.verified."""

    stamp: tuple[int, int, int, int]  # size, time of change in ns, of its inode, inode
    sha256: str


class TrainingState(Struct, frozen=True):
    """state.json of a checkpoint, without what components remember."""

    step: Number
    cursor: Number
    updates: Number
    metrics: dict[str, float]
    memory: dict[str, Any] = {}


class Queued(Struct, frozen=True):
    """One run in a sweep's queue."""

    run: str
    label: str
    shares: str | None = None
    retry_until: int | None = None
    evaluate: bool = False
    resources: dict[str, Any] = {}
    launch: int = 0
    trial: int | None = None


class Queue(Struct, frozen=True):
    """queue.json of a sweep: what its workers are to do."""

    newest: ClassVar[int] = 1
    remedy: ClassVar[str] = "launch the sweep again: it writes a new one"

    format: int
    runs: list[Queued]
    file: str = ""
    launch: Number = 0
    hold_after: int | None = None
    released: int = 0
    done: int = 0


class SlurmBatch(Struct, frozen=True):
    """<batch>.json among a sweep's jobs: one submission, the run of each of its tasks."""

    newest: ClassVar[int] = 1
    remedy: ClassVar[str] = "its jobs show in `squeue`; remove the file once none is left"

    format: int
    runs: list[str]
    code: str
    job: str | None = None


class SlurmTask(Struct, frozen=True):
    """<task>.json beside a task's log: the run that it has gone on to."""

    run: str


class Submitted(Struct, frozen=True):
    """A line of submitted.jsonl: a run that the sweep has launched."""

    run: str
    label: str


class Event(Struct, frozen=True):
    """A line of events.jsonl: what a worker did."""

    event: str
    run: str
    exit_code: int | None = None
    worker: str | None = None


class RetryRecord(Struct, frozen=True):
    """policy.json of a sweep: which ends its runs survive."""

    retry: dict[str, int]
    stuck_after_s: float | None = None


def plain(record: Struct) -> dict[str, Any]:
    """A record as JSON has it."""
    found: dict[str, Any] = msgspec.to_builtins(record)
    return found
