"""Exclusive ownership of a folder, in numbered attempts; the winner's work is published once.

    claim-0001.json      the live claim: who owns the folder
    claim-0001.expired   its owner fell silent and another took over
    claim-0001.stopped   its owner stopped on request
    claim-0001.failed    its owner failed
    claim-0001.pruned    a search had its owner stop for good
    done.json            the claim whose attempt is the published one
    attempts/0001/       all that its owner writes, with a `heartbeat`

A claim is taken by hard-linking a fully written file to the next free number, which succeeds for
one process only. Taking over and publishing are both a rename of the live claim, so that exactly
one of them happens: an owner that was thought dead finds its claim gone and publishes nothing.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vexp.errors import ClaimLost, Interrupted, RunError, StorageError
from vexp.files import fsync_folder, names_in, read_json, storage_errors, write_bytes
from vexp.runs.heartbeat import DEFAULT, Heartbeat, Timing, Watch
from vexp.runs.process_id import Owner

DONE = "done.json"
Ending = Literal["expired", "stopped", "failed", "pruned"]
_NAME = re.compile(r"claim-(\d{4,})\.(json|expired|stopped|failed|pruned)")


class Busy(RunError):
    """Another living process owns it."""

    def __init__(self, owner: Owner, folder: Path) -> None:
        self.owner = owner
        super().__init__(
            f"another process is working on this: {owner}, attempt {owner.attempt}",
            where=str(folder),
            remedy=f"watch it with: tail -f {attempt_folder(folder, owner.attempt) / 'log.txt'}",
        )


@dataclass(frozen=True)
class Marks:
    """What the names in a folder say about who owned and owns it."""

    live: int | None  # number of the live claim
    endings: dict[int, Ending]
    done: bool

    @property
    def next(self) -> int:
        return max([self.live or 0, *self.endings], default=0) + 1


def attempt_name(attempt: int) -> str:
    """Where an attempt lies in its folder."""
    return f"attempts/{attempt:04d}"


def attempt_folder(folder: Path, attempt: int) -> Path:
    return folder / attempt_name(attempt)


def live_file(folder: Path, attempt: int) -> Path:
    return folder / f"claim-{attempt:04d}.json"


def read_marks(folder: Path) -> Marks:
    """Read the names in a folder; one that does not exist has no marks.

    Raises:
        Damaged: if it cannot be listed.
    """
    return marks_of(names_in(folder))


def marks_of(names: Collection[str]) -> Marks:
    """What these names in a folder say about who owned and owns it."""
    live: int | None = None
    endings: dict[int, Ending] = {}
    for name in names:
        found = _NAME.fullmatch(name)
        if found and found[2] == "json":
            live = max(live or 0, int(found[1]))
        elif found:
            endings[int(found[1])] = found[2]  # type: ignore[assignment]
    return Marks(live, endings, DONE in names)


def read_owner(folder: Path, attempt: int) -> Owner | None:
    """The owner of the live claim with this number; None if it is not live any more."""
    path = live_file(folder, attempt)
    record = read_json(path)
    return Owner.read(record, attempt) if record is not None or path.exists() else None


@dataclass
class Claim:
    """This process's ownership of `folder`, from `acquire` until `publish` or `release`."""

    folder: Path
    owner: Owner
    heartbeat: Heartbeat = field(repr=False)
    _inode: int = field(repr=False)

    @property
    def attempt(self) -> int:
        return self.owner.attempt

    @property
    def attempt_dir(self) -> Path:
        return attempt_folder(self.folder, self.attempt)

    def still_mine(self) -> bool:
        """Whether nobody has taken over; asked before anything that others read is changed."""
        try:
            return live_file(self.folder, self.attempt).stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def ensure(self) -> None:
        """Raises:
        ClaimLost: if another process has taken over.
        """
        if not self.still_mine():
            raise self._lost()

    def publish(self) -> None:
        """Make this attempt the published one, at once and for good.

        Raises:
            ClaimLost: if another process has taken over; nothing was changed.
        """
        try:
            fsync_tree(self.attempt_dir)  # may take long: the heart has to go on beating
            self._end(DONE)
        finally:
            self.heartbeat.stop()

    def release(self, ending: Ending) -> None:
        """Give the claim up; whoever comes next may take it.

        That it was lost before, or that the disk refuses, is no error here: a process that is gone
        gives up its claim anyway.
        """
        self.heartbeat.stop()
        with contextlib.suppress(ClaimLost, StorageError, OSError):
            self._end(f"claim-{self.attempt:04d}.{ending}")

    def _end(self, name: str) -> None:
        self.ensure()
        with storage_errors(self.folder):
            try:
                live_file(self.folder, self.attempt).rename(self.folder / name)
            except FileNotFoundError as error:
                raise self._lost() from error
            fsync_folder(self.folder)

    def _lost(self) -> ClaimLost:
        return ClaimLost(
            f"another process took this over while {self.owner} "
            f"(attempt {self.attempt}) was silent",
            where=str(self.folder),
            remedy="nothing more was written; the other process goes on",
        )


def acquire(
    folder: Path,
    *,
    timing: Timing = DEFAULT,
    wait: bool = False,
    done: Callable[[], bool] = lambda: False,
    told: Callable[[Owner], None] = lambda _: None,
    stopping: Callable[[], bool] = lambda: False,
) -> Claim | None:
    """Own `folder` as its next attempt; None when it is done (`done.json`, or `done()` holds).

    An owner that is certainly gone is replaced at once, a silent one after `timing.expiry_s`.
    `told` is called once for each other owner that is met.

    Raises:
        Busy: another process is alive, and `wait` is false.
        Interrupted: `stopping()` became true while waiting.
        StorageError: the folder cannot be written.
    """
    watch = Watch(timing)
    met: set[str] = set()
    while True:
        marks = read_marks(folder)
        if marks.done or done():
            return None
        if marks.live is None:
            claim = _take(folder, marks.next, timing)
            if claim is not None and not done():
                return claim
            if claim is not None:
                claim.release("stopped")
            continue
        owner = read_owner(folder, marks.live)
        if owner is None:
            continue
        verdict = watch.judge(owner, attempt_folder(folder, marks.live) / "heartbeat")
        if verdict == "dead":
            end_lost(folder, marks.live)
            continue
        if verdict == "alive" and not wait:
            raise Busy(owner, folder)
        if owner.token not in met:
            met.add(owner.token)
            told(owner)
        if stopping():
            raise Interrupted("stopped while waiting for another process", where=str(folder))
        time.sleep(timing.poll_s)


def _take(folder: Path, attempt: int, timing: Timing) -> Claim | None:
    """Try to become attempt number `attempt`; None if another process was faster."""
    owner = Owner.here(attempt, interval_s=timing.interval_s, expiry_s=timing.expiry_s)
    target = live_file(folder, attempt)
    inode = _link(target, owner)
    if inode is None:
        return None
    # A process that dawdled between looking and linking may have reused a number that has ended.
    marks = read_marks(folder)
    if marks.done or attempt in marks.endings:
        target.unlink(missing_ok=True)
        return None
    own = attempt_folder(folder, attempt)
    try:
        with storage_errors(own):
            own.mkdir(parents=True, exist_ok=True)
            return Claim(folder, owner, Heartbeat(own / "heartbeat", timing.interval_s), inode)
    except BaseException:
        with contextlib.suppress(OSError):
            target.rename(folder / f"claim-{attempt:04d}.failed")
        raise


def _link(target: Path, owner: Owner) -> int | None:
    """Create `target` with its whole content, unless it exists; its inode, or None."""
    aside = target.parent / f".claim-{uuid.uuid4().hex}.tmp"
    with storage_errors(target):
        try:
            write_bytes(aside, json.dumps(owner.to_dict(), indent=2).encode() + b"\n")
            try:
                os.link(aside, target)
            except FileExistsError:
                # NFS may repeat a request that had succeeded; the link count knows.
                if aside.stat().st_nlink != 2:
                    return None
            except OSError as error:
                raise _no_links(error, target.parent) from error
            fsync_folder(target.parent)
            return aside.stat().st_ino
        except FileNotFoundError:  # the whole folder was removed: published meanwhile
            return None
        finally:
            aside.unlink(missing_ok=True)


def _no_links(error: OSError, folder: Path) -> OSError | StorageError:
    if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP):
        return error
    return StorageError(
        "this file system has no hard links, which keep two processes from owning one run",
        where=str(folder),
        remedy="choose a results_dir on another file system",
    )


def end_lost(folder: Path, attempt: int, ending: Ending = "expired") -> bool:
    """Take the claim from an owner that is gone; of several that try, the rename lets one win."""
    with storage_errors(folder):
        try:
            live_file(folder, attempt).rename(folder / f"claim-{attempt:04d}.{ending}")
        except FileNotFoundError:
            return False
        fsync_folder(folder)
    return True


def unpublish(folder: Path, attempt: int) -> None:
    """Have the published attempt, number `attempt`, count as expired: the next one is claimed."""
    with storage_errors(folder), contextlib.suppress(FileNotFoundError):  # another was faster
        (folder / DONE).rename(folder / f"claim-{attempt:04d}.expired")
        fsync_folder(folder)


def fsync_tree(folder: Path) -> None:
    """Make every file and name below `folder` survive a power cut."""
    for here, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                fsync_file(Path(here) / name)
        fsync_folder(Path(here))


def fsync_file(path: Path) -> None:
    """Make what was written to a file survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
