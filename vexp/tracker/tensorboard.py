"""TensorBoard event files in the run's folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vexp.errors import Problem
from vexp.registry import register
from vexp.tracker.base import Tracker, Tracking, missing_package

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from vexp.spec.run import RunSpec


class _Events:
    """One file per attempt; its first step hides what an earlier attempt wrote from there on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=step)
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


@register("tracker", "tensorboard")
@dataclass(frozen=True, kw_only=True)
class TensorBoard(Tracker):
    """Scalars per step; `tensorboard --logdir results/runs` shows all runs side by side."""

    def problems(self, run: RunSpec) -> Iterator[Problem]:
        yield from missing_package("tensorboard", extra="tensorboard")

    def start(self, *, run_id: str, folder: Path, config: Mapping[str, Any]) -> Tracking:
        return _Events(folder / "tensorboard")
