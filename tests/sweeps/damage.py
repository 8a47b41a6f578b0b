"""Kinds of damage to a finished run's folder, each with what of the run it is."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from unittest import mock

Level = Literal["run", "evaluation", "samples", "progress", "nothing"]
ATTEMPT = "attempts/0001"
FILES: dict[str, Level] = {
    "run.json": "run",
    "done.json": "run",
    f"{ATTEMPT}/result.json": "run",
    "evaluations/*/results.json": "evaluation",
}
# Which fields each file needs, and a value of another type for each that is checked.
FIELDS = {
    "run.json": {"format": "1", "config": [], "science": "x", "hash": 3, "imported": "yes"},
    "done.json": {"attempt": "1"},
    f"{ATTEMPT}/result.json": {"checkpoint": 3, "checkpoint_hash": None, "step": -1},
    "evaluations/*/results.json": {
        "format": None, "name": 3, "key": {}, "metrics": [], "protocol": "x", "samples": "3",
    },
}  # fmt: skip
REQUIRED = {
    "run.json": ("format", "config", "science"),
    "done.json": ("attempt",),
    f"{ATTEMPT}/result.json": ("checkpoint", "checkpoint_hash"),
    "evaluations/*/results.json": ("format", "name", "key", "metrics"),
}
CONTENTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "zeros": lambda content: b"\0" * len(content),
    "half": lambda content: content[: len(content) // 2],
    "with NULs": lambda content: content[:10] + b"\0\0" + content[10:],
    "binary": lambda _: bytes(range(256)),
    "null": lambda _: b"null",
    "a list": lambda _: b"[1, 2]",
    "a number": lambda _: b"7",
    "a string": lambda _: b'"x"',
    "deep": lambda _: b'{"x":' + b"[" * 100_000,
    "no UTF-8": lambda content: content.replace(b'"', b'"\xff', 1),
    "twice": lambda content: content.rstrip()[:-1] + b", " + content.lstrip()[1:],
    "two documents": lambda content: content * 2,
}
METRICS = {
    "no metric": {},
    "metric null": {"accuracy": None},
    "value text": {"accuracy": {"value": "0.5"}},
    "value null": {"accuracy": {"value": None}},
    "value list": {"accuracy": {"value": [0.5]}},
    "value missing": {"accuracy": {"n": 3}},
    "value true": {"accuracy": {"value": True}},
}


@dataclass(frozen=True)
class Damage:
    """One kind of damage; `forbids` is a path in the run's folder that may not be looked into."""

    name: str
    level: Level
    do: Callable[[Path], object]
    forbids: str = ""

    def __str__(self) -> str:
        return self.name


def rewritten(pattern: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        path = one(folder, pattern)
        path.write_bytes(change(path.read_bytes()))

    return do


def changed(pattern: str, key: str, value: object = ...) -> Callable[[Path], None]:
    """Set a field of a JSON file; without a value, drop it."""

    def change(content: bytes) -> bytes:
        found = json.loads(content)
        found.pop(key, None)
        return json.dumps(found if value is ... else found | {key: value}).encode()

    return rewritten(pattern, change)


def swapped(pattern: str, how: str) -> Callable[[Path], None]:
    """Put something that is no file into the place of one."""

    def do(folder: Path) -> None:
        path = one(folder, pattern)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        if how == "folder":
            path.mkdir()
        elif how == "file":
            path.write_text("x")
        elif how == "link":
            path.symlink_to(folder / "nowhere")
        elif how == "loop":
            path.symlink_to(path)
        elif how == "pipe":
            os.mkfifo(path)

    return do


def one(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern) if pattern else (folder,)
    return path


def another_runs_record(folder: Path) -> None:
    other = next(path for path in folder.parent.iterdir() if path != folder)
    shutil.copyfile(other / "run.json", folder / "run.json")


def nothing(_: Path) -> None:
    pass


def of_files() -> Iterator[Damage]:
    for pattern, level in FILES.items():
        short = pattern.rpartition("/")[2]
        for name, change in CONTENTS.items():
            yield Damage(f"{short} {name}", level, rewritten(pattern, change))
        for how in ("folder", "link", "loop", "pipe", "gone"):
            yield Damage(f"{short} is a {how}", level, swapped(pattern, how))
        yield Damage(f"{short} may not be read", level, nothing, forbids=short_of(pattern))
        for key, value in FIELDS[pattern].items():
            yield Damage(f"{short} {key} of another type", level, changed(pattern, key, value))
        for key in REQUIRED[pattern]:
            yield Damage(f"{short} without {key}", level, changed(pattern, key))
    for name, metrics in METRICS.items():
        change_to = changed("evaluations/*/results.json", "metrics", metrics)
        yield Damage(f"results.json {name}", "evaluation", change_to)


def short_of(pattern: str) -> str:
    return pattern.replace("evaluations/*/", "evaluations/")


def of_folders() -> Iterator[Damage]:
    yield Damage("of another user", "run", nothing, forbids=".")
    yield Damage("another run's run.json", "run", another_runs_record)
    yield Damage("empty folder", "run", lambda f: [swapped("", "folder")(f)])
    yield Damage("attempts gone", "run", swapped("attempts", "gone"))
    yield Damage("attempts is a file", "run", swapped("attempts", "file"))
    yield Damage("evaluations is a file", "evaluation", swapped("evaluations", "file"))
    yield Damage("evaluations is a loop", "evaluation", swapped("evaluations", "loop"))
    yield Damage("done names attempt 7", "run", changed("done.json", "attempt", 7))
    yield Damage("of a newer vexp", "run", changed("run.json", "format", 99))
    newer = changed("evaluations/*/results.json", "format", 99)
    yield Damage("evaluation of a newer vexp", "evaluation", newer)
    yield Damage("switches.json a list", "run", lambda f: (f / "switches.json").write_text("[]"))


def of_the_rest() -> Iterator[Damage]:
    samples = "evaluations/*/samples.jsonl"
    for name, change in {
        "empty": lambda _: b"",
        "short": lambda content: content.splitlines(keepends=True)[0],
        "half": lambda content: content[:-20],
        "zeros": lambda content: b"\0" * len(content),
        "of lists": lambda _: b"[1]\n[2]\n[3]\n",
        "of text for numbers": lambda content: content.replace(
            b'"correct": 1.0', b'"correct": "x"'
        ),
    }.items():
        yield Damage(f"samples.jsonl {name}", "samples", rewritten(samples, change))
    for how in ("folder", "gone"):
        yield Damage(f"samples.jsonl is a {how}", "samples", swapped(samples, how))
    for name in ("empty", "half", "a list", "deep"):
        path = f"{ATTEMPT}/progress.json"
        yield Damage(f"progress.json {name}", "progress", rewritten(path, CONTENTS[name]))
        for other in ("metrics.jsonl", "timings.jsonl", "stages.json"):
            path = f"{ATTEMPT}/{other}"
            yield Damage(f"{other} {name}", "nothing", rewritten(path, CONTENTS[name]))
    for other in ("metrics.jsonl", "timings.jsonl", "checkpoints"):
        yield Damage(f"{other} is a loop", "nothing", swapped(f"{ATTEMPT}/{other}", "loop"))


DAMAGES = [*of_files(), *of_folders(), *of_the_rest()]


@contextlib.contextmanager
def forbidden(place: Path | str) -> Iterator[None]:
    """Have the system refuse to open or list what is at or below `place`, as another user's."""
    if not place:
        yield
        return
    home = str(Path(place).resolve())
    inside = home if Path(home).exists() else str(Path(home).parent)
    ending = "" if Path(home).exists() else Path(home).name

    def refused(path: object) -> bool:
        if not isinstance(path, str | os.PathLike):
            return False
        text = os.path.abspath(os.fspath(path))
        below = text == inside or text.startswith(f"{inside}/")
        return below and (not ending or text.endswith(f"/{ending}"))

    def guard(call: Callable[..., object], *, names: bool = False) -> Callable[..., object]:
        def guarded(path: object = ".", *rest: object, **more: object) -> object:
            if refused(path) and (not names or os.path.abspath(str(path)) != inside):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return call(path, *rest, **more)

        return guarded

    with (
        mock.patch.object(os, "open", guard(os.open)),
        mock.patch.object(os, "listdir", guard(os.listdir)),
        mock.patch.object(os, "scandir", guard(os.scandir)),
        mock.patch.object(os, "stat", guard(os.stat, names=True)),
        mock.patch.object(io, "open", guard(io.open)),
        mock.patch("builtins.open", guard(open)),
    ):
        yield
