"""The process that does an evaluation by lmms-eval: started, watched, and its failure told."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import vexp
import vexp.errors
from vexp.errors import Interrupted, RunError, VexpError
from vexp.evaluator.base import EvaluationContext
from vexp.files import read_json, write_json

SUPPORTED = "0.7.3"  # the version whose tasks and defaults were looked at
JOURNAL = "responses.jsonl"
_POLL_S = 0.2
_LEAVING_S = 10.0
_REMEDY = 'pip install "vexp[eval]" there, or name a Python that has both: evaluator.NAME.python='
_START = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); " + (
    "from vexp.bridge.worker import main; main()"
)
_ASK = (
    "import importlib.metadata as m, json\n"
    "def v(n):\n"
    "    try: return m.version(n)\n"
    "    except m.PackageNotFoundError: return None\n"
    "print(json.dumps([v('lmms_eval'), v('vexp')]))"
)
# lmms-eval reads these; a key for a judge would have it ask one, and some tasks import only if
# there is one.
_ENVIRONMENT = {
    "USE_LLM_JUDGE": "False",
    "OPENAI_API_KEY": "unused",
    "TOKENIZERS_PARALLELISM": "false",
}
_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
# By these lmms-eval and accelerate would take the worker for one of a group of processes.
_GROUP = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def work(
    python: str, offline: bool, job: Mapping[str, Any], desk: EvaluationContext
) -> dict[str, Any]:
    """Do the job in a worker and return what it found.

    Raises:
        Interrupted: the user asked to stop; the responses so far are kept.
        VexpError: the worker said what is wrong, or ended without a result.
    """
    _check(python)
    folder = desk.work.absolute()
    for name in ("result.json", "error.json", "total.json"):
        (folder / name).unlink(missing_ok=True)
    write_json(folder / "job.json", job)
    shown: tuple[int, int | None] = (0, None)
    progress = _Progress(folder)
    with _started(python, offline, folder) as process:
        while process.poll() is None:
            desk.ensure()
            if desk.stopping():
                raise Interrupted("stopped on request; the responses so far are kept")
            if (now := progress.now()) != shown:
                shown = now
                desk.progress(*now)
            time.sleep(_POLL_S)
    found = read_json(folder / "result.json")
    if process.returncode or not isinstance(found, dict):
        raise _failure(process.returncode, folder)
    return found


def _check(python: str) -> None:
    """Raises:
    RunError: lmms-eval or vexp is missing there, or of another version.
    """
    where = python or sys.executable
    try:
        answer = subprocess.run([where, "-c", _ASK], capture_output=True, text=True, check=True)
        theirs, ours = json.loads(answer.stdout)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise RunError(
            f"{where} cannot be started", where="evaluator: python", remedy=_REMEDY
        ) from error
    lacks = "lmms-eval" if theirs is None else "vexp" if ours is None and python else ""
    if lacks:
        raise RunError(f"{lacks} is not installed for {where}", remedy=_REMEDY)
    if python and ours != vexp.__version__:
        raise RunError(
            f"vexp {ours} is installed for {where}, and this is vexp {vexp.__version__}",
            accepted="the same version in both",
        )
    if theirs != SUPPORTED:
        raise RunError(
            f"lmms-eval {theirs} is installed for {where}",
            accepted=f"{SUPPORTED}: what its tasks score was looked at in this version",
            remedy=f"pip install lmms-eval=={SUPPORTED}",
        )


@contextlib.contextmanager
def _started(python: str, offline: bool, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The worker; it is gone when the block ends, and also when this process is killed."""
    job = str(folder / "job.json")
    paths = [str(Path(path).absolute()) for path in sys.path]
    # Another Python has packages of its own; this one is given what we have.
    command = (
        [python, "-m", "vexp.bridge.worker", job]
        if python
        else [sys.executable, "-c", _START, json.dumps(paths), job]
    )
    environment = {k: v for k, v in os.environ.items() if k not in _GROUP}
    environment |= _ENVIRONMENT | (_OFFLINE if offline else {})
    if data := (read_json(folder / "job.json") or {}).get("data"):
        environment["VEXP_BENCHMARK_DATA"] = data if Path(data).is_dir() else str(Path(data).parent)
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,  # lmms-eval reads a .env file where it is started
            env=environment,
            stdin=subprocess.PIPE,  # closes when we are gone: the worker then ends
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LEAVING_S)
        process.kill()
        process.wait()


class _Progress:
    """Questions answered and asked; reads what has come since, as responses may be long."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lines = self._read = 0

    def now(self) -> tuple[int, int | None]:
        total = read_json(self._folder / "total.json")
        with contextlib.suppress(FileNotFoundError), (self._folder / JOURNAL).open("rb") as file:
            file.seek(self._read)
            new = file.read()
            self._read += len(new)
            self._lines += new.count(b"\n")
        asked = total["questions"] if isinstance(total, dict) else None
        return max(0, self._lines - 1), asked  # the journal's first line is no answer


def _failure(code: int, folder: Path) -> VexpError:
    said = read_json(folder / "error.json")
    log = f"the whole output is in {folder / 'log.txt'}"
    if not isinstance(said, dict):
        return RunError(
            f"lmms-eval's process ended with {code} and left no result",
            where=log,
            remedy="the same command goes on after the responses that are kept",
        )
    parts = {k: said.get(k, "") for k in ("what", "where", "accepted", "remedy")}
    known = getattr(vexp.errors, said["kind"], None) if said["kind"] else None
    if (
        isinstance(known, type)
        and issubclass(known, VexpError)
        and known is not vexp.errors.ConfigError
    ):
        return known(**parts)
    if not said["kind"]:
        return RunError(
            f"lmms-eval failed: {said['what']}",
            where=log,
            remedy="the responses are kept; the same command scores them again",
        )
    return RunError(**parts)
