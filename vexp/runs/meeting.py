"""Where the processes of a run find each other: a key-value store that no stranger can write to.

On one machine it is a file in a folder of this user's own, and nothing listens. On several nodes it
is a server on the first one's loopback, behind a gate on the interface that the other nodes come
by; who knocks has to prove that he knows a word, which they get through their environment.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from vexp import network

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

COMING_S = 600.0  # what the others get to start, with Slurm's part of it
STORE_TIMEOUT = timedelta(minutes=5)  # of one question to the store
WORD = "VEXP_MEETING_SECRET"  # environment: the word that opens the gate
_FILE, _GATE = "file:", "gate:"
_INTERFACE = "GLOO_SOCKET_IFNAME"


@dataclass(frozen=True)
class Meeting:
    """The store, and how the other processes get to it."""

    store: Store
    near: str  # for those on this machine: `file:PATH` or host:port
    far: str | None  # for those on other nodes: `gate:host:port`
    environment: dict[str, str]  # what the others need to know besides


@contextlib.contextmanager
def held(nodes: int) -> Iterator[Meeting]:
    """Hold a meeting of processes on so many nodes while the block runs."""
    with _on_one_machine() if nodes == 1 else _on_nodes() as meeting:
        yield meeting


@contextlib.contextmanager
def _on_one_machine() -> Iterator[Meeting]:
    from torch._C._distributed_c10d import FileStore

    folder = tempfile.mkdtemp(prefix="vexp-")  # only this user gets into it
    loopback = network.loopback_interface()
    ours = {} if _INTERFACE in os.environ or loopback is None else {_INTERFACE: loopback}
    os.environ.update(ours)
    try:
        path = f"{folder}/meeting"
        store = FileStore(path)
        store.set_timeout(STORE_TIMEOUT)
        yield Meeting(store, f"{_FILE}{path}", None, ours)
    finally:
        for name in ours:
            os.environ.pop(name, None)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _on_nodes() -> Iterator[Meeting]:
    from torch._C._distributed_c10d import TCPStore

    listening = network.listener(network.LOOPBACK)
    port = listening.getsockname()[1]
    store = TCPStore(
        network.LOOPBACK, port, is_master=True, wait_for_workers=False, timeout=STORE_TIMEOUT,
        master_listen_fd=listening.detach(),
    )  # fmt: skip
    word = secrets.token_hex(32)
    gate = network.SecretGate(network.node_listener(), port, word.encode())
    try:
        far = f"{_GATE}{gate.call}"
        yield Meeting(store, f"{network.LOOPBACK}:{port}", far, {WORD: word})
    finally:
        gate.close()


def joined(address: str) -> Store:
    """The store of the meeting at `address`; waits until it is there.

    Raises:
        RuntimeError, OSError: if it does not come in time.
    """
    from torch._C._distributed_c10d import FileStore, TCPStore

    if address.startswith(_FILE):
        store = FileStore(address.removeprefix(_FILE))
        store.set_timeout(STORE_TIMEOUT)
        return store
    word = os.environ.pop(WORD, "").encode()
    call = address.removeprefix(_GATE) if address.startswith(_GATE) else None
    end = time.monotonic() + COMING_S
    while True:
        try:
            port = network.way_through(call, word) if call else int(address.rpartition(":")[2])
            return TCPStore(network.LOOPBACK, port, is_master=False, timeout=STORE_TIMEOUT)
        except (RuntimeError, OSError):
            if time.monotonic() > end:
                raise
            time.sleep(1.0)
