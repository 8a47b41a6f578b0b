"""A score from elsewhere, before it belongs to a run; and the benchmarks that are known by name."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vexp.config.scalars import load_yaml
from vexp.config.schema import build


@dataclass(frozen=True)
class Foreign:
    """One benchmark's result of one checkpoint."""

    benchmark: str
    metric: str  # as its maker calls it
    value: float  # a share from 0 to 1, unless the benchmark counts points
    stderr: float | None
    n: int | None
    version: str  # of task, scorer and part of the data; two versions never share a cell
    decoding: str  # greedy, or how it was sampled; empty: not known
    run: str | None  # the run it says it is of
    source: Path
    about: Mapping[str, Any] = field(default_factory=dict)  # what else its maker recorded
    verdicts: tuple[Mapping[str, Any], ...] = ()  # of every sample, where they are known


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What a benchmark is called elsewhere."""

    label: str
    tasks: dict[str, tuple[Any, ...]]  # lmms-eval task -> key of its score, factor to a share
    mean_of: tuple[str, ...] = ()  # tasks whose scores it is the mean of


@dataclass(frozen=True, kw_only=True)
class _File:
    format: int
    benchmarks: dict[str, Benchmark]


@functools.cache
def catalogue() -> Mapping[str, Benchmark]:
    """The benchmarks of the studied papers by our name for them."""
    return build(_File, load_yaml(Path(__file__).parent / "benchmarks.yaml")).benchmarks
