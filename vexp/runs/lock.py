"""Locks of files. They only spare work: what must not happen twice is guarded by claims.

So nobody has to wait for one: after a stated time the holder is named and gone around, and a file
system without locks is as good as one where nobody ever holds any.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vexp.files import storage_errors
from vexp.runs.process_id import Owner

# EBADF and EROFS: NFS locks only what is open for writing.
_NO_LOCKS = frozenset(
    {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF, errno.EROFS}
)
_POLL_S = 0.02
_passed: set[str] = set()  # holders that this process has gone around: it waits for each once


def try_lock(handle: int, *, shared: bool = False) -> bool | None:
    """Lock an open file until it is closed; None where the file system has no locks.

    A shared lock excludes only those that are not; it can be had of a file open for reading.
    """
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return True


@contextlib.contextmanager
def turn(
    path: Path, patience_s: float, stopping: Callable[[], bool] = lambda: False
) -> Iterator[bool]:
    """Run the block while no other process is in one, as far as that can be had within a time.

    False without the lock: after `patience_s`, when `stopping()`, or where there are no locks.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        held = _wait(handle, path, patience_s, stopping)
        if held:
            _sign(handle, patience_s)
        yield bool(held)
    finally:
        os.close(handle)


def _wait(handle: int, path: Path, patience_s: float, stopping: Callable[[], bool]) -> bool | None:
    end = time.monotonic() + patience_s
    while (held := try_lock(handle)) is False:
        owner, since = _holder(handle)
        if owner.token in _passed or stopping():
            break
        if time.monotonic() > end:
            _passed.add(owner.token)
            sys.stderr.write(
                f"{path} has been held by {owner}{since}, longer than {patience_s:.0f} s: "
                "going on without it\n"
            )
            break
        time.sleep(_POLL_S)
    return held


def _sign(handle: int, patience_s: float) -> None:
    """Say who holds the lock, since when, and for how long others wait."""
    owner = Owner.here(attempt=0, expiry_s=patience_s).to_dict()
    content = json.dumps({"owner": owner, "since": time.strftime("%Y-%m-%d %H:%M:%S")})
    with contextlib.suppress(OSError):  # a full disk: then it has no name
        os.ftruncate(handle, 0)
        os.pwrite(handle, content.encode(), 0)


def _holder(handle: int) -> tuple[Owner, str]:
    """Who holds a lock, and since when."""
    try:
        record = json.loads(os.pread(handle, 1 << 16, 0))
        return Owner.read(record["owner"], 0), f" since {record['since']}"
    except (ValueError, TypeError, KeyError):
        return Owner.read(None, 0), ""
