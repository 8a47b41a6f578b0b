"""Build a folder once, whoever needs it: the others wait, and take over when the builder dies.

Beside the target stands `.<name>.work/` with the claims, a `work` folder that is handed from one
attempt to the next, and the private `output` of each attempt. The output of the one attempt that
publishes is renamed to the target.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from vexp.errors import ClaimLost, Interrupted, StorageError
from vexp.files import fsync_folder, read_json, storage_errors, write_json, write_text
from vexp.runs import failure
from vexp.runs.claim import DONE, Claim, acquire, attempt_folder
from vexp.runs.heartbeat import DEFAULT, Timing
from vexp.runs.process_id import Owner

# `build(work, output, ensure)`: `ensure` raises ClaimLost when another process has taken over
Build = Callable[[Path, Path, Callable[[], None]], None]


def work_area(target: Path) -> Path:
    """The folder in which `target` is being built."""
    return target.parent / f".{target.name}.work"


def build_once(
    target: Path,
    build: Build,
    *,
    what: str,
    note: Callable[[str], None],
    stopping: Callable[[], bool] = lambda: False,
    timing: Timing = DEFAULT,
) -> Path:
    """`target`, built by exactly one process if it is missing.

    `what` completes the note "waiting for …, which pid 7 on host builds". An error in `build`
    publishes nothing and keeps `work` for the next attempt.

    Raises:
        Interrupted: `stopping()` became true while waiting for another process.
        ClaimLost: `build` found that something else it works for was taken over.
    """
    area = work_area(target)

    def told(owner: Owner) -> None:
        note(f"waiting for {what}, which {owner} is working on")

    while not target.is_dir():
        claim = acquire(
            area, timing=timing, wait=True, done=target.is_dir, told=told, stopping=stopping
        )
        if claim is not None:
            try:
                _attempt(claim, build)
            except ClaimLost as lost:
                if lost.problem.where != str(area):  # the run that needs the target was lost itself
                    raise
                note(str(lost.problem.what))
                continue
        _promote(area, target)
    _remove(area)
    return target


def _attempt(claim: Claim, build: Build) -> None:
    """Build and publish as this claim's attempt."""
    try:
        with storage_errors(claim.folder):
            work = _inherited_work(claim)
            output = claim.attempt_dir / "output"
            output.mkdir()
            build(work, output, claim.ensure)
            claim.publish()
    except BaseException as error:
        stopped = isinstance(error, Interrupted) or not isinstance(error, Exception)
        mine = claim.still_mine()
        if mine and not stopped:
            _record(error, claim.attempt_dir)
        claim.release("stopped" if stopped else "failed")
        if isinstance(error, OSError) and not mine:
            claim.ensure()  # the work folder was moved away by the new owner: say that instead
        raise


def _record(error: BaseException, attempt: Path) -> None:
    """Leave the reason where others look for it. Must not hide `error` by its own."""
    from vexp.runs.workspace import LOG, now

    with contextlib.suppress(StorageError, OSError):
        write_json(attempt / failure.RECORD, failure.describe(error, now()).to_dict())
        write_text(attempt / LOG, failure.traceback_of(error))


def _inherited_work(claim: Claim) -> Path:
    """The work folder of the newest attempt that has one, moved here; a new one otherwise.

    Moving takes it from a former owner that wakes up later: its paths lead nowhere.
    """
    own = claim.attempt_dir / "work"
    for attempt in range(claim.attempt - 1, 0, -1):
        try:
            (attempt_folder(claim.folder, attempt) / "work").rename(own)
            return own
        except FileNotFoundError:
            continue
    own.mkdir()
    return own


def _promote(area: Path, target: Path) -> None:
    """Rename the published output into place; also what a killed publisher left undone."""
    record = read_json(area / DONE)
    if record is None:
        return
    with storage_errors(target):
        try:
            (attempt_folder(area, int(record["attempt"])) / "output").rename(target)
            fsync_folder(target.parent)
        except FileNotFoundError:
            if not target.is_dir():  # somebody deleted what had been published: start again
                _remove(area)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another was faster
                raise


def _remove(area: Path) -> None:
    """Drop the work area of a target that exists; aside first, so that nobody sees half of it."""
    aside = area.parent / f"{area.name}.{uuid.uuid4().hex[:8]}.tmp"
    with contextlib.suppress(OSError):
        area.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
