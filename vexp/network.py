"""Listening where it is needed, for those who know a word: between the nodes of one job."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import socket
import threading
from collections.abc import Callable

_NONCE = 32  # bytes of a challenge; an answer has as many
_GATE = b"gate"  # goes into the gate's own answer
_PATIENCE_S = 5.0  # for somebody who has connected and says nothing
_CHUNK = 1 << 16
LOOPBACK = "127.0.0.1"


def node_listener() -> socket.socket:
    """A socket that other nodes of this Slurm job reach, on the one interface that they come by.

    Slurm says which: a step's first node is the one that its job began on. Without that, it is the
    one that this machine's name stands for; where that is no help either, it is all of them.
    """
    for address in (os.environ.get("SLURM_LAUNCH_NODE_IPADDR"), _own_address()):
        if address:
            with contextlib.suppress(OSError):
                return listener(address)
    return listener("")


def listener(address: str) -> socket.socket:
    """A listening socket at a free port of `address`."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family)


def call_address(listening: socket.socket) -> str:
    """The host:port by which another node reaches the socket."""
    address, port = listening.getsockname()[:2]
    anywhere = address in ("0.0.0.0", "::")  # noqa: S104  (asked, not bound)
    return f"{socket.gethostname() if anywhere else address}:{port}"


def connected(call: str) -> socket.socket:
    """A connection to where another node listens."""
    host, _, port = call.rpartition(":")
    known = os.environ.get("SLURM_LAUNCH_NODE_IPADDR")  # needs no name service
    named = not host.replace(".", "").isdecimal() and ":" not in host
    connection = socket.create_connection((known if named and known else host, int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def loopback_interface() -> str | None:
    """The name of the interface that nothing from outside comes by."""
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in ("lo", "lo0") if name in names), None)


class SecretGate:
    """Passes connections on to a port of the loopback, if who connects proves to know the word."""

    def __init__(self, listening: socket.socket, port: int, word: bytes) -> None:
        self._listening, self._port, self._word = listening, port, word
        _serve(listening, self._admit)

    @property
    def call(self) -> str:
        """The host:port where others knock."""
        return call_address(self._listening)

    def close(self) -> None:
        """Let nobody in any more; who is in stays until one side hangs up."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _admit(self, guest: socket.socket) -> None:
        guest.settimeout(_PATIENCE_S)
        nonce = secrets.token_bytes(_NONCE)
        guest.sendall(nonce)
        if not hmac.compare_digest(_exactly(guest, _NONCE), _answer(self._word, nonce)):
            guest.close()
            return
        guest.sendall(_answer(self._word, nonce + _GATE))
        guest.settimeout(None)
        _join(guest, socket.create_connection((LOOPBACK, self._port)))


def way_through(call: str, word: bytes) -> int:
    """A port of this node's loopback from which every connection leads through the gate at `call`.

    Raises:
        OSError: if there is no gate there, or it does not know the word.
    """
    knock(call, word).close()
    listening = listener(LOOPBACK)
    _serve(listening, lambda guest: _join(guest, knock(call, word)))
    port: int = listening.getsockname()[1]
    return port


def knock(call: str, word: bytes) -> socket.socket:
    """A connection that the gate at `call` has been given the word for.

    Raises:
        OSError: if nobody is there, or nobody who asks.
    """
    connection = connected(call)
    connection.settimeout(_PATIENCE_S)
    nonce = _exactly(connection, _NONCE)
    connection.sendall(_answer(word, nonce))
    if not hmac.compare_digest(_exactly(connection, _NONCE), _answer(word, nonce + _GATE)):
        connection.close()
        raise ConnectionError("who answers here does not know the word")
    connection.settimeout(None)
    return connection


def _answer(word: bytes, nonce: bytes) -> bytes:
    return hmac.digest(word, nonce, hashlib.sha256)


def _serve(listening: socket.socket, take: Callable[[socket.socket], None]) -> None:
    """Accept connections in a thread, and `take` each in one of its own: none waits for another."""

    def taken(guest: socket.socket) -> None:
        try:
            guest.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            take(guest)
        except OSError:
            guest.close()

    def accept() -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                guest, _ = listening.accept()
                _thread(taken, guest)

    _thread(accept)


def _join(one: socket.socket, other: socket.socket) -> None:
    """Pass on in both directions until a side hangs up."""
    other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _thread(_pass_on, one, other)
    _pass_on(other, one)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := source.recv(_CHUNK):
            target.sendall(part)
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def _thread(work: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=work, args=arguments, name="vexp-gate", daemon=True).start()


def _exactly(source: socket.socket, count: int) -> bytes:
    """
    Raises:
        OSError: if the other side is gone, or silent.
    """
    found = b""
    while len(found) < count:
        part = source.recv(count - len(found))
        if not part:
            raise ConnectionError("the other side has hung up")
        found += part
    return found


def _own_address() -> str | None:
    """What this machine's name stands for, unless that is the loopback."""
    with contextlib.suppress(OSError):
        address = socket.gethostbyname(socket.gethostname())
        return None if address.startswith("127.") else address
    return None
