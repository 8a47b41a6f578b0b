"""Numbered places for workers on one machine; each is held by at most one living process.

A slot is a locked file: the lock goes when its process goes, however it goes. The file says who
holds it and which run it is at. A process that lives but gives no sign of life loses it: the file
is taken away from under its lock. Where files cannot be locked, a claim stands for the lock.
"""

from __future__ import annotations

import contextlib
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
from vexp.runs.claim import Busy, acquire, end_lost, read_marks
from vexp.runs.heartbeat import DEFAULT, Heartbeat, Watch, age_s, looks_silent, silence
from vexp.runs.lock import try_lock
from vexp.runs.process_id import Owner


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

    @property
    def heartbeat(self) -> Path:
        """Moves while the holder lives."""
        return self.folder / f"{self.name}.heartbeat"

    @property
    def claims(self) -> Path:
        """Folder of the claims that stand for the lock where the file system has none."""
        return self.folder / self.name

    def holder(self) -> Holder | None:
        """The living process in this slot; None if it is free. Only reads."""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            free = try_lock(file.fileno(), shared=True)
            if free:
                return None
            holder = _holder(self, file.read())
            if free is None and (holder.owner is None or holder.owner.gone()):
                return None  # no lock says more
            return holder
        return None

    @contextlib.contextmanager
    def held(self) -> Iterator[HeldSlot | None]:
        """Hold the slot for the block; None if another living process has it.

        One that was asked to stop is waited for, one that looks silent is watched.
        """
        watch = Watch(DEFAULT)
        while True:
            with storage_errors(self.path), contextlib.ExitStack() as open_files:
                self.folder.mkdir(parents=True, exist_ok=True)
                handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                open_files.callback(os.close, handle)
                locked = try_lock(handle)
                if locked and self._is(handle):
                    open_files.pop_all()
                    break
                holder = _holder(self, os.pread(handle, 1 << 16, 0))
            if locked is None:
                with self._claimed() as hold:
                    yield hold
                return
            if locked is False and self._keeps(holder, watch):
                yield None
                return
            time.sleep(0.02)  # it is about to leave, or is only looking whether this is free
        with self._at(handle) as hold:
            yield hold

    def evict(self, owner: Owner) -> None:
        """Free the slot of a worker that was judged dead; should it wake up, it sees that."""
        aside = self.folder / f".{self.name}.{owner.token}.lost"
        with storage_errors(self.path), contextlib.suppress(FileNotFoundError):
            self.path.rename(aside)
            evicted = _holder(self, aside.read_bytes()).owner
            if evicted is not None and evicted.token != owner.token:  # the next one was faster
                with contextlib.suppress(FileExistsError):
                    os.link(aside, self.path)
            aside.unlink(missing_ok=True)
        live = read_marks(self.claims).live
        if live is not None:
            end_lost(self.claims, live)

    def _keeps(self, holder: Holder, watch: Watch) -> bool:
        """Whether a holder goes on; one that is dead loses the slot."""
        owner = holder.owner
        if owner is None or owner.gone():
            return False
        verdict = watch.judge(owner, self.heartbeat)
        if verdict == "dead":
            self.evict(owner)
        if holder.stopping:
            return False
        return verdict == "alive" or not holder.looks_silent

    @contextlib.contextmanager
    def _claimed(self) -> Iterator[HeldSlot | None]:
        """As `held`, where the file system has no locks."""
        holder = self.holder()
        with storage_errors(self.claims):
            self.claims.mkdir(parents=True, exist_ok=True)
        try:
            claim = acquire(self.claims, wait=holder is not None and holder.stopping)
        except Busy:
            claim = None
        if claim is None:
            yield None
            return
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            with self._at(handle) as hold:
                yield hold
        finally:
            claim.release("stopped")

    @contextlib.contextmanager
    def _at(self, handle: int) -> Iterator[HeldSlot]:
        """Hold the slot by an open file that is this process's alone; closes it."""
        try:
            heartbeat = Heartbeat(self.heartbeat, DEFAULT.interval_s)
            hold = HeldSlot(self, handle, _here())
            hold.at(None)
            try:
                yield hold
            finally:
                heartbeat.stop()
                os.ftruncate(handle, 0)
        finally:
            os.close(handle)

    def _is(self, handle: int) -> bool:
        """Whether an open file is still the slot's."""
        try:
            return self.path.stat().st_ino == os.fstat(handle).st_ino
        except FileNotFoundError:
            return False


@dataclass(frozen=True)
class HeldSlot:
    """This process's hold of a slot."""

    _slot: Slot
    _handle: int
    _owner: Owner

    def at(self, run: str | None) -> None:
        """Say which run this worker is at."""
        content = json.dumps({"owner": self._owner.to_dict(), "run": run}).encode()
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, content, 0)

    def mine(self) -> bool:
        """Whether the slot was not given to another while this process was silent."""
        return self._slot._is(self._handle)


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

    @property
    def silent_s(self) -> float | None:
        """Since its last heartbeat, by clocks: a hint only."""
        return age_s(self.slot.heartbeat)

    @property
    def looks_silent(self) -> bool:
        """Whether it is worth watching."""
        return looks_silent(self.silent_s)

    @property
    def silence(self) -> str:
        """Who it is, and for how long it has been silent, in words."""
        return f"{self.owner or 'its process'}, {silence(self.silent_s)}"

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


def _here() -> Owner:
    return Owner.here(attempt=0, interval_s=DEFAULT.interval_s, expiry_s=DEFAULT.expiry_s)


def _holder(slot: Slot, content: bytes) -> Holder:
    try:
        record = cast("Mapping[str, Any]", json.loads(content))
    except ValueError:
        return Holder(slot, None, None)
    return Holder(slot, Owner.read(record.get("owner"), 0), record.get("run"))
