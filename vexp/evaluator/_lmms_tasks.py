"""lmms-eval's task files, read without importing it: which of the hub's datasets they name."""

from __future__ import annotations

import functools
import importlib.util
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from vexp.errors import ConfigError, Problem
from vexp.evaluator.benchmarks import OWN, TASKS
from vexp.hub import Repository, is_name

_MARK = "LMMS_EVAL/"  # in our task files: the folder of lmms-eval's
_WHERE = (
    "import importlib.util as u; s = u.find_spec('lmms_eval');"
    "print(s.submodule_search_locations[0] if s and s.submodule_search_locations else '')"
)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which the names of functions are text."""


_Loader.add_multi_constructor("!", lambda _loader, _tag, _node: None)


@functools.cache
def installed(python: str) -> Path | None:
    """lmms-eval's folder in a Python, this one if it is empty; None where it is not installed."""
    if python:
        try:
            found = subprocess.run(
                [python, "-c", _WHERE], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        return Path(found.stdout.strip()) if found.stdout.strip() else None
    spec = importlib.util.find_spec("lmms_eval")
    return (
        Path(spec.submodule_search_locations[0])
        if spec and spec.submodule_search_locations
        else None
    )


def datasets(sources: Mapping[str, str], tasks_dir: str, python: str) -> Iterator[Repository]:
    """The datasets of the hub that tasks read.

    `sources` are task names with `own`, a file below lmms-eval's tasks, or nothing: looked up.

    Raises:
        ConfigError: lmms-eval is not there to be looked up in, or has no such task.
    """
    for task, source in sources.items():
        home = installed(python)
        if source == OWN and _MARK not in (TASKS / f"{task}.yaml").read_text("utf-8"):
            continue  # its questions are local files
        if home is None:
            raise ConfigError(
                Problem(
                    f"which dataset the task {task!r} reads stands in lmms-eval's files, and "
                    "lmms-eval is not installed",
                    where=python or "this Python",
                    remedy='pip install "vexp[eval]", or name a Python that has it: '
                    "evaluator.NAME.python=",
                )
            )
        top = home / "tasks"
        path = TASKS / f"{task}.yaml" if source == OWN else top / source if source else None
        path = path or _found(task, tasks_dir, top)
        config = _read(path, top)
        named = str(config.get("dataset_path") or "")
        if is_name(named):
            revision = (config.get("dataset_kwargs") or {}).get("revision") or "main"
            yield Repository("dataset", named, str(revision))


def _found(task: str, tasks_dir: str, top: Path) -> Path:
    """The file of a task by its name."""
    line = re.compile(rf"^task:\s*(['\"]?){re.escape(task)}\1\s*(#.*)?$", re.MULTILINE)
    for folder in (Path(tasks_dir), top) if tasks_dir else (top,):
        for path in sorted(folder.rglob("*.yaml")):
            if line.search(path.read_text("utf-8", errors="replace")):
                return path
    raise ConfigError(Problem(f"lmms-eval has no task {task!r}", where="task"))


def _read(path: Path, top: Path) -> dict[str, Any]:
    """A task's settings, with those of the files that it includes."""
    text = path.read_text("utf-8").replace(_MARK, f"{top}/")
    config = yaml.load(text, _Loader) or {}  # noqa: S506  (a safe loader)
    included = config.pop("include", ())
    found: dict[str, Any] = {}
    for name in [included] if isinstance(included, str) else reversed(included):
        found |= _read(path.parent / name, top)
    return found | config
