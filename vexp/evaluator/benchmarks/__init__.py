"""The benchmarks of the studied papers by name: catalogue.yaml, and lmms-eval tasks of our own."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vexp.config.scalars import load_yaml
from vexp.config.schema import build
from vexp.errors import ConfigError, Problem, suggest

OWN = "own"  # the source of a run whose task file is ours
TASKS = Path(__file__).parent / "tasks"
Unwrap = Literal["none", "thoughts", "answer"]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What a benchmark is called elsewhere, and how it is asked here."""

    label: str
    group: str = ""
    papers: tuple[str, ...] = ()  # whose tables have it
    # lmms-eval task -> key of its score, factor to a share; for results made elsewhere
    tasks: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    mean_of: tuple[str, ...] = ()  # tasks whose scores it is the mean of
    # lmms-eval task -> source, key of its score, factor to a share; several: the mean counts
    runs: dict[str, tuple[Any, ...]]
    unwrap: Unwrap = "none"  # what of a response the scorer is given
    whole: bool = False  # a part of it has no meaning
    note: str = ""

    @property
    def needs_data(self) -> bool:
        """Whether it is on local files only: no hub name is known to lmms-eval."""
        return any(
            source == OWN and not _included(task) for task, (source, *_) in self.runs.items()
        )


@dataclass(frozen=True, kw_only=True)
class _File:
    format: int
    benchmarks: dict[str, Benchmark]


@functools.cache
def catalogue() -> Mapping[str, Benchmark]:
    """The benchmarks by our name for them."""
    return build(_File, load_yaml(Path(__file__).parent / "catalogue.yaml")).benchmarks


def papers() -> dict[str, list[str]]:
    """The benchmarks in each paper's tables, in the catalogue's order."""
    found: dict[str, list[str]] = {}
    for name, benchmark in catalogue().items():
        for paper in benchmark.papers:
            found.setdefault(paper, []).append(name)
    return found


def chosen(names: Iterable[str], *, where: str) -> list[str]:
    """Benchmarks by name, a paper's name standing for all of its own; each once.

    Raises:
        ConfigError: with every name that is neither, and those that are near to it.
    """
    lists = papers()
    found: list[str] = []
    problems: list[Problem] = []
    for name in names:
        if name in lists:
            found += lists[name]
        elif name in catalogue():
            found.append(name)
        else:
            problems.append(unknown(name, where))
    if problems:
        raise ConfigError(problems)
    return list(dict.fromkeys(found))


def unknown(name: str, where: str) -> Problem:
    """The message for a name that is no benchmark of the catalogue."""
    return Problem(
        f"there is no benchmark {name!r}",
        where=where,
        accepted=suggest(name, [*catalogue(), *papers()]),
        remedy="`vexp list benchmarks` shows them all; any task of lmms-eval has its name in the "
        "evaluator instead: evaluator.mine={name: lmms_eval, task: NAME}",
    )


def _included(task: str) -> bool:
    """Whether our task file starts from one that lmms-eval ships, with its data."""
    return (TASKS / f"{task}.yaml").read_text("utf-8").startswith("include: LMMS_EVAL")
