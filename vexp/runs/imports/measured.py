"""A score from elsewhere, before it belongs to a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


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
