"""Numbered places for workers on one machine; each is held by at most one living process.

A slot is a locked file: the lock goes when its process goes, however it goes. The file says who
holds it and which run it is at.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from vexp.files import read_json, storage_errors, write_json
from vexp.runs.owner import Owner


@dataclass(frozen=True)
class Slot:
    """One place for a worker of the sweep whose workers' folder is `folder`."""

    folder: Path
    number: int

    @property
    def name(self) -> str:
        return f"{socket.gethostname()}-{self.number}"

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def stopping(self) -> Path:
        """Names the worker that was asked to stop; the slot is the next one's as soon as it has."""
        return self.folder / f"{self.name}.stopping"

    def holder(self) -> Holder | None:
        """The living process in this slot; None if it is free."""
        with contextlib.suppress(FileNotFoundError), self.path.open("r+b") as file:
            if _lock(file.fileno()):
                return None
            return _holder(self, file.read())
        return None

    @contextlib.contextmanager
    def held(self) -> Iterator[Hold | None]:
        """Hold the slot for the block; None if another process has it."""
        with storage_errors(self.path):
            self.folder.mkdir(parents=True, exist_ok=True)
            file = self.path.open("a+b")
        with file:
            while not _lock(file.fileno()):
                file.seek(0)
                holder = _holder(self, file.read())
                owner = holder.owner
                if owner is not None and not owner.gone() and not holder.stopping:
                    yield None
                    return
                time.sleep(0.02)  # it is about to leave, or is only looking whether this is free
            hold = Hold(file.fileno(), Owner.here(attempt=0))
            hold.at(None)
            try:
                yield hold
            finally:
                os.ftruncate(file.fileno(), 0)


@dataclass(frozen=True)
class Hold:
    """This process's hold of a slot."""

    _handle: int
    _owner: Owner

    def at(self, run: str | None) -> None:
        """Say which run this worker is at."""
        content = json.dumps({"owner": self._owner.to_dict(), "run": run}).encode()
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, content, 0)


@dataclass(frozen=True)
class Holder:
    """A living worker, as its slot tells."""

    slot: Slot
    owner: Owner | None  # None for the moment in which it has not written it yet
    run: str | None

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self.owner is not None and read_json(self.slot.stopping) == self.owner.token

    def stop(self) -> bool:
        """Ask it to save and end; False if it is gone."""
        if self.owner is None or self.owner.gone():
            return False
        write_json(self.slot.stopping, self.owner.token)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.owner.pid, signal.SIGTERM)
            return True
        return False


def held_slots(folder: Path) -> list[Holder]:
    """The living workers of this machine, by slot number."""
    prefix = f"{socket.gethostname()}-"
    found = folder.glob(f"{prefix}*.json") if folder.is_dir() else ()
    numbers = sorted(int(n) for path in found if (n := path.stem.removeprefix(prefix)).isdecimal())
    holders = (Slot(folder, number).holder() for number in numbers)
    return [holder for holder in holders if holder is not None]


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Run the block in one process of this machine at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with storage_errors(path), path.open("a+b") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        yield


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(slot: Slot, content: bytes) -> Holder:
    try:
        record = cast("Mapping[str, Any]", json.loads(content))
    except ValueError:
        return Holder(slot, None, None)
    return Holder(slot, Owner.read(record.get("owner"), 0), record.get("run"))
