"""vLLM in a process of its own, seen from within: `python -m vexp _engine HOME`."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vexp.engine._process import ALIVE, Inbox, Message
from vexp.engine._vllm_server import Asked, Served, Server, first_line
from vexp.errors import ConfigError


def serve(home: Path) -> None:
    """Answer messages until whoever sends them is gone."""
    inbox = Inbox(home)
    server: Server | None = None
    for tensors, plain in inbox:
        try:
            if plain["do"] == "start":
                torch.set_num_threads(plain["threads"])
                server = Server.start(Served.read(plain["served"]), home)
                inbox.reply({"done": "start"})
                continue
            assert server is not None, "the first message is `start`"
            answer, done = _done(server, inbox, (tensors, plain))
            inbox.reply({"done": done}, answer)
        except ConfigError as error:
            (problem,) = error.problems
            fields = {name: getattr(problem, name) for name in problem.__slots__}
            inbox.reply({"refused": fields})
        except Exception as error:  # noqa: BLE001  (vLLM may break down in any way)
            traceback.print_exc()
            inbox.reply({"failed": f"{type(error).__name__}: {first_line(error)}"})


def _done(server: Server, inbox: Inbox, message: Message) -> tuple[Mapping[str, Tensor], str]:
    tensors, plain = message
    if plain["do"] == "load":
        server.load(_weights(Path(plain["path"])))
        return {}, "load"
    asked = Asked.read(tensors, plain["asked"])
    return server.answer(asked, alive=lambda: inbox.reply(ALIVE)), "answer"


def _weights(path: Path) -> Iterator[tuple[str, Tensor]]:
    """One after the other, read from memory that both processes share."""
    from safetensors import safe_open

    opened: Any = safe_open(path, framework="pt")
    with opened as file:
        for name in file.keys():  # noqa: SIM118  (it is no dictionary)
            yield name, file.get_tensor(name)
