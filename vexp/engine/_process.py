"""An engine's process: started, spoken to in frames, waited for with a bound, gone with its parent.

A frame is its length (8 bytes) and a message as `parallel.packed` writes it: JSON and safetensors,
no pickles. The process ends at once when its standard input closes, which it does whenever the
process that started it is gone, however that ended.

On this machine frames go through standard input and output. A process on another node of the same
Slurm job is started by srun, which passes some 70 MB/s of them; there they go through a connection
that the process makes, and standard input is there to be closed.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import queue
import secrets
import select
import shutil
import signal
import site
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

import vexp
from vexp import network
from vexp.errors import EngineFailed
from vexp.policy.parallel import packed, unpacked

ALIVE = "alive"  # the message of a process that is still at work
LOG = "engine.log"  # in its home: what it printed
_HEAD = 8  # bytes
_CHUNK = 1 << 20
_LEAVING_S = 5.0
_LOOK_S = 1.0  # how often one looks whether it lives, while it says nothing
_TOKEN = 32  # characters
_SHARED = Path("/dev/shm")  # noqa: S108  (memory; the folder in it has a name of its own)
# Slurm tells the steps of a job what it wants of the run. Only the run's own process ends them.
_DEAF = ("sh", "-c", 'trap "" INT TERM USR1 USR2; exec "$@"', "vexp")
_SRUN = ("--overlap", "--kill-on-bad-exit=1", "--mpi=none", "--unbuffered")
Message = tuple[Mapping[str, Tensor], Any]


class EngineDied(EngineFailed):
    """The engine's process has ended, or had to be ended; it may be started again."""


class EngineSilent(EngineFailed):
    """The engine's process gave no sign of life for too long, and was ended."""


def memory_folder(need: int) -> str | None:
    """A folder in shared memory with room for `need` bytes and some more, if there is one."""
    usable = _SHARED.is_dir() and os.access(_SHARED, os.W_OK)
    return str(_SHARED) if usable and shutil.disk_usage(_SHARED).free > 1.2 * need else None


class Process:
    """A process that answers messages, seen from the one that started it."""

    def __init__(
        self,
        command: Sequence[str],
        home: Path,
        patience_s: float,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.patience_s = patience_s
        self._log = home / LOG
        with self._log.open("ab") as log:
            # In a session of its own: Ctrl-C in a terminal is for the first process alone.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_with_this_code(os.environ | (environment or {})),
                start_new_session=True,
                bufsize=0,
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, plain: Any, tensors: Mapping[str, Tensor] | None = None) -> None:
        """
        Raises:
            EngineDied: if the process has ended.
            Silent: if it takes nothing for `patience_s`.
        """
        self.send_bytes(packed(tensors or {}, plain))

    def send_bytes(self, payload: bytes) -> None:
        """As `send`, of a message that is packed already."""
        for part in (len(payload).to_bytes(_HEAD, "little"), payload):
            rest = memoryview(part)
            while rest:
                self._await([], [self._in])
                try:
                    rest = rest[os.write(self._in, rest[:_CHUNK]) :]
                except BlockingIOError:
                    continue
                except OSError:
                    raise self._ended() from None

    def receive(self) -> Message:
        """The next message that is not only a sign of life.

        Raises:
            EngineDied: if the process has ended.
            Silent: if nothing comes for `patience_s`.
        """
        while True:
            length = int.from_bytes(self._read(_HEAD), "little")
            tensors, plain = unpacked(self._read(length))
            if plain != ALIVE:
                return tensors, plain

    def end(self) -> None:
        """End it, at once if it does not end by itself."""
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        try:
            self._process.wait(_LEAVING_S)
        except subprocess.TimeoutExpired:
            self._kill()

    def _kill(self) -> int:
        """End it now; its exit code."""
        self._process.kill()
        return self._process.wait()

    def _read(self, count: int) -> bytes:
        found = bytearray()
        while len(found) < count:
            self._await([self._out], [])
            try:
                piece = os.read(self._out, min(_CHUNK, count - len(found)))
            except BlockingIOError:
                continue
            except OSError:  # a connection that broke off
                piece = b""
            if not piece:
                raise self._ended()
            found += piece
        return bytes(found)

    def _await(self, reading: list[int], writing: list[int]) -> None:
        end = time.monotonic() + self.patience_s
        while (left := end - time.monotonic()) > 0:
            if any(select.select(reading, writing, [], min(left, _LOOK_S))):
                return
            if self._process.poll() is not None:  # a connection may hear nothing of that
                raise self._ended()
        said = self._last_words()
        self._kill()
        raise EngineSilent(
            f"the engine's process gave no sign of life for {self.patience_s:g} s"
            f"{said}; it was ended",
            where=f"process {self.pid}",
        )

    def _ended(self) -> EngineDied:
        try:
            code = self._process.wait(_LEAVING_S)
        except subprocess.TimeoutExpired:  # it has closed its output and lives on
            code = self._kill()
        return EngineDied(
            f"the engine's process has ended: {_how(code)}{self._last_words()}",
            where=f"process {self.pid}",
        )

    def _last_words(self) -> str:
        """The last line it has printed."""
        try:
            lines = self._log.read_text("utf-8", errors="replace").strip().splitlines()
        except OSError:
            return ""
        return f"; it last said: {lines[-1].strip()[:300]}" if lines else ""


class RemoteProcess(Process):
    """A process on another node of this Slurm job: a job step of its own, which srun stands for.

    `command` is told by `--call` where to connect to. What it sends first is what it got through
    standard input, so that nobody else on the network can be taken for it.
    """

    def __init__(
        self,
        command: Sequence[str],
        home: Path,
        patience_s: float,
        environment: Mapping[str, str] | None = None,
        *,
        node: int,  # its number among the nodes of the job
        cpus: int = 1,
    ) -> None:
        with network.node_listener() as listener:
            address = network.call_address(listener)
            step = ["srun", *_SRUN, "--nodes=1", "--ntasks=1", f"--relative={node}"]
            step += [f"--cpus-per-task={cpus}", *_DEAF, *command, "--call", address]
            super().__init__(step, home, patience_s, environment)
            try:
                self._connection = self._accepted(listener)
            except BaseException:
                self._kill()
                raise
        self._in = self._out = self._connection.fileno()
        self._connection.setblocking(False)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _accepted(self, listener: socket.socket) -> socket.socket:
        """The connection that the process makes.

        Raises:
            EngineDied: if it ends before that.
            Silent: if it does not connect within `patience_s`.
        """
        token = secrets.token_hex(_TOKEN // 2).encode()
        with contextlib.suppress(OSError):  # it may have ended already
            os.write(self._in, token)
        while True:
            self._await([listener.fileno()], [])
            connection, _ = listener.accept()
            connection.settimeout(_LEAVING_S)
            try:
                if hmac.compare_digest(_exactly(connection, _TOKEN), token):
                    return connection
            except (OSError, EOFError):
                pass
            connection.close()

    def end(self) -> None:
        self._connection.close()
        super().end()

    def _kill(self) -> int:
        """srun ends its step, however deaf that is, where it is told to; killed, it could not."""
        self._process.terminate()
        try:
            return self._process.wait(2 * _LEAVING_S)
        except subprocess.TimeoutExpired:
            return super()._kill()


class Mailbox:
    """The messages that a process gets, seen from within; made first thing in that process."""

    def __init__(self, home: Path, call: str | None = None) -> None:
        """`call`: the host:port where whoever started it waits for it, if not at the other end of
        standard input and output.
        """
        self._home = home
        self._questions, self._replies = 0, os.dup(1)
        # What libraries print must not get among the frames.
        os.dup2(2, 1)
        self._asked: queue.Queue[bytes] = queue.Queue()
        self._said: queue.Queue[bytes] = queue.Queue()
        work = [self._listen, self._speak]
        if call is not None:
            self._questions = self._replies = _connected(call).detach()
            work.append(self._watch)
        for each in work:
            threading.Thread(target=each, name=f"vexp{each.__name__}", daemon=True).start()

    def __iter__(self) -> Iterator[Message]:
        while True:
            yield unpacked(self._asked.get())

    def reply(self, plain: Any, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Answer; never waits for the other side to listen."""
        payload = packed(tensors or {}, plain)
        self._said.put(len(payload).to_bytes(_HEAD, "little") + payload)

    def _listen(self) -> None:
        try:
            while True:
                length = int.from_bytes(_exactly(self._questions, _HEAD), "little")
                self._asked.put(_exactly(self._questions, length))
        finally:
            self._leave()

    def _watch(self) -> None:
        """Standard input says nothing any more; it only closes."""
        try:
            while os.read(0, _HEAD):
                pass
        finally:
            self._leave()

    def _speak(self) -> None:
        try:
            while True:
                rest = memoryview(self._said.get())
                while rest:
                    rest = rest[os.write(self._replies, rest) :]
        finally:
            self._leave()

    def _leave(self) -> None:
        """Nobody is there any more who could clear away what they share."""
        shutil.rmtree(self._home, ignore_errors=True)
        os._exit(0)


def _exactly(source: int | socket.socket, count: int) -> bytes:
    """
    Raises:
        EOFError: if the other side is gone.
    """
    found = bytearray()
    while len(found) < count:
        wanted = min(_CHUNK, count - len(found))
        piece = os.read(source, wanted) if isinstance(source, int) else source.recv(wanted)
        if not piece:
            raise EOFError
        found += piece
    return bytes(found)


def _connected(call: str) -> socket.socket:
    """The connection to whoever started this process by srun."""
    token = _exactly(0, _TOKEN)
    connection = network.connected(call)
    connection.sendall(token)
    return connection


def _how(code: int) -> str:
    """How a process ended; srun and shells say by a code above 128 that it was killed."""
    killed = {-code, code - 128} & {number.value for number in signal.Signals}
    return f"killed by {signal.Signals(killed.pop()).name}" if killed else f"exit code {code}"


def _with_this_code(environment: dict[str, str]) -> dict[str, str]:
    """The process has to run the very code that runs here."""
    code = str(Path(vexp.__file__).parents[1])
    if code not in site.getsitepackages():
        known = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{code}{os.pathsep}{known}" if known else code
    return environment


PYTHON = (sys.executable, "-P")
