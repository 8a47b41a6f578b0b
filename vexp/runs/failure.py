"""Why a run ended early: its kind, its signature, and a message without a traceback."""

from __future__ import annotations

import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from vexp import masking, records
from vexp.errors import (
    CheckpointError,
    ConfigError,
    Damaged,
    DataError,
    Diverged,
    EngineFailed,
    Interrupted,
    ProcessLost,
    RunError,
    StorageError,
    VexpError,
)
from vexp.files import read, storage_errors

# How an attempt can end. The last three are seen by who watches the process, not by itself.
Kind = Literal[
    "config", "data", "oom", "diverged", "storage", "interrupted", "code",
    "preempted", "timeout", "infra",
]  # fmt: skip
FORMAT = 1
RECORD = "failure.json"

_REMEDIES: dict[Kind, str] = {
    "oom": "lower compute.micro_batch_size or set compute.gradient_checkpointing=true: the result "
    "stays the same",
    "code": "mend the code and run the same command: it goes on from the last checkpoint",
}


class RunFailed(RunError):
    """A run that ended by an error which is no message for users; the log has the traceback."""


@dataclass(frozen=True)
class Failure:
    """Content of failure.json. Runs that failed for one reason share a `signature`."""

    kind: Kind
    error: str
    message: str
    signature: str
    at: str

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **masking.masked(asdict(self))}


def recorded(attempt: Path) -> records.FailureRecord | None:
    """The failure that an attempt's folder names; None if there is none, or it is damaged."""
    try:
        return read(attempt / RECORD, records.FailureRecord)
    except Damaged:
        return None


def observed(kind: Kind, message: str, at: str) -> Failure:
    """An end that was seen from outside; `message` also groups equal ones."""
    return Failure(kind=kind, error=kind, message=message, signature=kind, at=at)


def describe(error: BaseException, at: str) -> Failure:
    """Classify an error; `at` is when it happened, for people."""
    name = type(error).__name__
    first = str(error).strip().splitlines()[0] if str(error).strip() else name
    place = _place(error)
    return Failure(
        kind=kind_of(error),
        error=name,
        message=str(error),
        signature=f"{name} at {place}" if place else f"{name}: {first}",
        at=at,
    )


def kind_of(error: BaseException) -> Kind:
    """What kind of failure an error is."""
    if isinstance(error, Interrupted | KeyboardInterrupt | SystemExit):
        return "interrupted"
    if isinstance(error, EngineFailed):
        return "infra"
    if isinstance(error, ProcessLost):
        return cast("Kind", error.kind)
    if isinstance(error, ConfigError | CheckpointError):
        return "config"
    if isinstance(error, DataError):
        return "data"
    if isinstance(error, StorageError | OSError):
        return "storage"
    if _out_of_memory(error):
        return "oom"
    if isinstance(error, Diverged):
        return "diverged"
    return "code"


def for_user(error: Exception, log: Path) -> VexpError:
    """What the user is shown: the error itself if it is a message, else one that names the log."""
    if isinstance(error, VexpError):
        return error
    try:
        with storage_errors(log.parent):
            raise error
    except StorageError as explained:
        return explained
    except Exception:  # noqa: BLE001  (it is the same error again)
        return _run_failed(error, log)


def _run_failed(error: Exception, log: Path) -> RunFailed:
    kind = kind_of(error)
    what = "out of memory" if kind == "oom" else f"{type(error).__name__}: {error}"
    place = _place(error)
    return RunFailed(
        f"the run failed: {what}",
        where=f"{place}; the traceback is in {log}" if place else f"the traceback is in {log}",
        remedy=_REMEDIES.get(
            kind, "see the log; the same command goes on from the last checkpoint"
        ),
    )


def traceback_of(error: BaseException) -> str:
    """The traceback as a log keeps it."""
    return masking.mask("".join(traceback.format_exception(error)))


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text
    )


def _place(error: BaseException) -> str:
    """File and line that raised, below the user's own code where there is some."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    own = [
        f for f in frames if "site-packages" not in f.filename and "/lib/python" not in f.filename
    ]
    last = own[-1] if own else frames[-1]
    return f"{Path(last.filename).name}:{last.lineno}"
