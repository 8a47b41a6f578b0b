"""A verifier for which answers need no sense: right or wrong by the text alone."""

from __future__ import annotations

import os
import signal
import zlib
from dataclasses import dataclass
from pathlib import Path

from vexp.registry import register
from vexp.verifier.base import Verdict, Verifier


@register("verifier", "coin")
@dataclass(frozen=True, kw_only=True)
class Coin(Verifier):
    """Tosses a coin for each response; equal texts land alike.

    When the file named by COIN_FAULT exists, the process whose rank it holds fails as it says.
    """

    def verdict(self, response: str, gold: str) -> Verdict:
        _fault()
        return Verdict(float(zlib.crc32(response.encode()) % 2))


def _fault() -> None:
    from vexp.policy import parallel

    path = Path(os.environ.get("COIN_FAULT") or "/nowhere")
    try:
        rank, what = path.read_text().split()
    except FileNotFoundError:  # there is none, or the process that it is for has taken it
        return
    if int(rank) != parallel.rank():
        return
    path.unlink()
    if what == "raise":
        raise RuntimeError("the coin fell off the table")
    os.kill(os.getpid(), getattr(signal, what))
