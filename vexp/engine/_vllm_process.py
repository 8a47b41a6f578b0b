"""vLLM in a process of its own, seen from within: `python -m vexp _engine HOME`.

On another node than the one it serves, it makes its home itself and is sent what belongs there.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vexp.engine._process import ALIVE, Mailbox, Message
from vexp.engine._vllm_server import GenerateRequest, ModelSpec, Server, chosen, first_line
from vexp.errors import ConfigError


def serve_elsewhere(call: str, name: str) -> None:
    """As `serve`, for a process on another node, which waits at `call`.

    What an earlier process of this `name` has left there, because it was killed, is cleared away.
    """
    prefix = f"vexp-vllm-{name}-"
    for left in Path(tempfile.gettempdir()).glob(f"{glob.escape(prefix)}*"):
        shutil.rmtree(left, ignore_errors=True)
    home = Path(tempfile.mkdtemp("", prefix))
    serve(home, Mailbox(home, call))


def serve(home: Path, inbox: Mailbox | None = None) -> None:
    """Answer messages until whoever sends them is gone."""
    inbox = inbox or Mailbox(home)
    server: Server | None = None
    sent = _Sent(home)
    for tensors, plain in inbox:
        try:
            if plain["do"] in ("file", "weights"):
                sent.take(plain, tensors["content"])
                inbox.reply({"done": plain["do"]})
                continue
            if plain["do"] == "start":
                server = _started(home, plain)
                inbox.reply({"done": "start"})
                continue
            assert server is not None, "it is started before anything else is asked of it"
            answer, done = _done(sent, server, inbox, (tensors, plain))
            inbox.reply({"done": done}, answer)
        except ConfigError as error:
            (problem,) = error.problems
            fields = {name: getattr(problem, name) for name in problem.__slots__}
            inbox.reply({"refused": fields})
        except Exception as error:  # noqa: BLE001  (vLLM may break down in any way)
            traceback.print_exc()
            if server is not None and server.lost:  # as if this one had ended: start another one
                os._exit(1)
            inbox.reply({"failed": f"{type(error).__name__}: {first_line(error)}"})


def _started(home: Path, plain: Mapping[str, Any]) -> Server:
    torch.set_num_threads(plain["threads"])
    served = ModelSpec.read(plain["served"])
    if plain["share"] and served.device == "cuda":  # Slurm has said which GPUs this node gives
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(
            chosen([name for name in seen.split(",") if name], *plain["share"])
        )
    return Server.start(served, home)


class _Sent:
    """What a process on another node is sent before it can begin, piece by piece."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._weights: int | None = None  # memory that is given back however this process ends

    def take(self, plain: Mapping[str, Any], content: Tensor) -> None:
        if plain["do"] == "file":
            with (self._home / Path(plain["name"]).name).open("ab") as file:
                file.write(content.numpy().tobytes())
            return
        if self._weights is None:
            self._weights = os.memfd_create("vexp-weights")
        rest = memoryview(content.numpy().tobytes())
        while rest:
            rest = rest[os.write(self._weights, rest) :]

    @contextlib.contextmanager
    def weights(self) -> Iterator[Path]:
        """Those that were sent, as a file that vLLM's other processes can read as well."""
        assert self._weights is not None, "they are sent before they are loaded"
        handle, self._weights = self._weights, None
        try:
            yield Path(f"/proc/{os.getpid()}/fd/{handle}")
        finally:
            os.close(handle)


def _done(
    sent: _Sent, server: Server, inbox: Mailbox, message: Message
) -> tuple[Mapping[str, Tensor], str]:
    tensors, plain = message
    if plain["do"] == "load":
        known = contextlib.nullcontext(Path(plain["path"])) if "path" in plain else sent.weights()
        with known as path:
            server.load_file(path)
        return {}, "load"
    if plain["do"] == "release_memory":
        server.release_memory()
        return {}, "release_memory"
    request = GenerateRequest.read(tensors, plain["asked"])
    return server.answer(request, alive=lambda: inbox.reply(ALIVE)), "answer"
