"""An engine's process: started, spoken to in frames, waited for with a bound, gone with its parent.

A frame is its length (8 bytes) and a message as `parallel.packed` writes it: JSON and safetensors,
no pickles. The process ends at once when its standard input closes, which it does whenever the
process that started it is gone, however that ended.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import shutil
import signal
import site
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

import vexp
from vexp.errors import EngineFailed
from vexp.train.parallel import packed, unpacked

ALIVE = "alive"  # the message of a process that is still at work
LOG = "engine.log"  # in its home: what it printed
_HEAD = 8  # bytes
_CHUNK = 1 << 20
_LEAVING_S = 5.0
Message = tuple[Mapping[str, Tensor], Any]


class Gone(EngineFailed):
    """The engine's process has ended, or had to be ended; it may be started again."""


class Silent(EngineFailed):
    """The engine's process gave no sign of life for too long, and was ended."""


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
            Gone: if the process has ended.
            Silent: if it takes nothing for `patience_s`.
        """
        self.send_bytes(packed(tensors or {}, plain))

    def send_bytes(self, payload: bytes) -> None:
        """As `send`, of a message that is packed already."""
        rest = memoryview(len(payload).to_bytes(_HEAD, "little") + payload)
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
            Gone: if the process has ended.
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
            self._process.kill()
            self._process.wait()

    def _read(self, count: int) -> bytes:
        found = bytearray()
        while len(found) < count:
            self._await([self._out], [])
            try:
                piece = os.read(self._out, min(_CHUNK, count - len(found)))
            except BlockingIOError:
                continue
            if not piece:
                raise self._ended()
            found += piece
        return bytes(found)

    def _await(self, reading: list[int], writing: list[int]) -> None:
        ready = select.select(reading, writing, [], self.patience_s)
        if any(ready):
            return
        said = self._last_words()
        self._process.kill()
        self._process.wait()
        raise Silent(
            f"the engine's process gave no sign of life for {self.patience_s:g} s"
            f"{said}; it was ended",
            where=f"process {self.pid}",
        )

    def _ended(self) -> Gone:
        try:
            code = self._process.wait(_LEAVING_S)
        except subprocess.TimeoutExpired:  # it has closed its output and lives on
            self._process.kill()
            code = self._process.wait()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return Gone(
            f"the engine's process has ended: {how}{self._last_words()}",
            where=f"process {self.pid}",
        )

    def _last_words(self) -> str:
        """The last line it has printed."""
        try:
            lines = self._log.read_text("utf-8", errors="replace").strip().splitlines()
        except OSError:
            return ""
        return f"; it last said: {lines[-1].strip()[:300]}" if lines else ""


class Inbox:
    """The messages that a process gets, seen from within; made first thing in that process."""

    def __init__(self, home: Path) -> None:
        self._home = home
        # What libraries print must not get among the frames.
        self._replies = os.dup(1)
        os.dup2(2, 1)
        self._asked: queue.Queue[bytes] = queue.Queue()
        self._said: queue.Queue[bytes] = queue.Queue()
        for name, work in (("vexp-asked", self._listen), ("vexp-said", self._speak)):
            threading.Thread(target=work, name=name, daemon=True).start()

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
                length = int.from_bytes(_exactly(0, _HEAD), "little")
                self._asked.put(_exactly(0, length))
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


def _exactly(handle: int, count: int) -> bytes:
    """
    Raises:
        EOFError: if the other side is gone.
    """
    found = bytearray()
    while len(found) < count:
        piece = os.read(handle, min(_CHUNK, count - len(found)))
        if not piece:
            raise EOFError
        found += piece
    return bytes(found)


def _with_this_code(environment: dict[str, str]) -> dict[str, str]:
    """The process has to run the very code that runs here."""
    code = str(Path(vexp.__file__).parents[1])
    if code not in site.getsitepackages():
        known = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{code}{os.pathsep}{known}" if known else code
    return environment


PYTHON = (sys.executable, "-P")
