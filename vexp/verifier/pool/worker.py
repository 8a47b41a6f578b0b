"""A worker process: it builds one verifier and judges responses, one JSON line each.

It speaks on the pipes it was started with; anything a verifier prints goes to standard error.
It never outlives its parent: it ends when its input does, and should a verdict hang while the
parent is gone, the kernel's alarm ends it whatever the interpreter is doing.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ORPHAN_CHECK_S = 5.0  # how often an idle worker looks whether its parent is still there
GRACE_S = 2.0  # seconds beyond the time limit after which a hanging worker ends itself
MEMORY = 4 * 2**30  # bytes of data; 10^10^10 should be a crash, not an empty machine


def main() -> None:
    """Read the verifier's description, then tasks; write one answer per line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    tasks = _lines(0, os.getppid())
    try:
        verifier = build(next(tasks))
        verifier.prepare()
    except Exception as error:  # noqa: BLE001  (a plugin may fail in any way; the parent reports it)
        _send(answers, {"failed": f"{type(error).__name__}: {error}"})
        return
    _send(answers, {"ready": True})
    for task in tasks:
        _send(answers, judge(verifier, task))


def describe(verifier: Any) -> dict[str, Any]:
    """What `build` needs to make an equal verifier in another process."""
    from vexp.config.schema import to_dict

    cls = type(verifier)
    module = sys.modules[cls.__module__]
    by_file = cls.__module__ == "__main__" or cls.__module__.startswith("vexp_plugin_")
    source = str(Path(str(module.__file__)).resolve()) if by_file else None
    fields = to_dict(verifier)
    return {
        "name": fields.pop("name"),
        "fields": fields,
        "plugin": source,
        "module": module.__name__,
    }


def build(description: dict[str, Any]) -> Any:
    """The verifier of a description made by `describe`."""
    from vexp.config.schema import build as build_from
    from vexp.registry import REGISTRY

    if description["plugin"]:
        REGISTRY.load_plugins([description["plugin"]], origin="verifier worker")
    else:
        importlib.import_module(description["module"])
    return build_from(REGISTRY.get("verifier", description["name"]), description["fields"])


def judge(verifier: Any, task: dict[str, Any]) -> dict[str, Any]:
    """One verdict as a plain dict; an exception is a verdict, too."""
    signal.setitimer(signal.ITIMER_REAL, verifier.time_limit_s + GRACE_S)
    try:
        verdict = verifier.verdict(task["response"], task["gold"])
        correct, extracted, status = float(verdict.correct), verdict.extracted, verdict.status
    except Exception as error:  # noqa: BLE001  (whatever a response provokes must not end training)
        return {"correct": 0.0, "extracted": None, "status": "crashed", "error": repr(error)}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return {"correct": correct, "extracted": extracted, "status": status}


def _send(answers: Any, message: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the parent is gone; the next read ends us
        answers.write(json.dumps(message) + "\n")
        answers.flush()


def _lines(handle: int, parent: int) -> Iterator[dict[str, Any]]:
    """JSON lines from a pipe until it closes or the parent is gone."""
    pending = b""
    while True:
        readable, _, _ = select.select([handle], [], [], ORPHAN_CHECK_S)
        if os.getppid() != parent:
            return
        if not readable:
            continue
        chunk = os.read(handle, 1 << 16)
        if not chunk:
            return
        *whole, pending = (pending + chunk).split(b"\n")
        for line in whole:
            yield json.loads(line)
