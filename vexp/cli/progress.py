"""What a user watches while a run trains: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

_STAGES = {"warm_start": "warm start", "rl": "RL", "anchor": "anchor"}
# metric -> label in the bar, in this order; what a row does not have is not shown
_SHOWN = {"loss": "loss", "reward": "reward", "accuracy": "accuracy", "length": "length"}
_SHOWN |= {name: name.replace("_", " ") for name in ("single", "multi", "left_out", "retries")}
_SHOWN |= {"unanswered": "unanswered"}
_LINE_EVERY_S = 30.0


class ProgressBar:
    """Implements `vexp.runs.workspace.Reporter`; use it as a context manager."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}
        self._started: dict[str, tuple[float, int]] = {}
        self._line_at = float("-inf")

    def __enter__(self) -> ProgressBar:
        if sys.stderr.isatty():
            self._bar = _bar()
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def note(self, text: str) -> None:
        """A message on a line of its own, above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)  # noqa: T201

    def progress(
        self, stage: str, step: int, total: int | None, metrics: Mapping[str, float | int]
    ) -> None:
        """Show that step `step` of `total` of a stage or an evaluation is done."""
        now = time.monotonic()
        self._started.setdefault(stage, (now, step))
        if self._bar is not None:
            self._show(stage, step, total, metrics)
        elif step == total or now - self._line_at >= _LINE_EVERY_S:
            self._line_at = now
            of = f"/{total}" if total else ""
            left = _remaining(self._started[stage], now, step, total)
            print(  # noqa: T201
                f"{_label(stage)} {step}{of}  {shown(metrics)}{left}", file=sys.stderr, flush=True
            )

    def _show(
        self, stage: str, step: int, total: int | None, metrics: Mapping[str, float | int]
    ) -> None:
        if stage not in self._tasks:
            # a resumed stage starts at its step, so that the rate is that of this process
            self._tasks[stage] = self._bar.add_task(_label(stage), total=total, metrics="")
            self._bar.reset(self._tasks[stage], completed=max(0, step - 1), total=total)
        self._bar.update(self._tasks[stage], completed=step, metrics=shown(metrics))


def shown(metrics: Mapping[str, float | int]) -> str:
    """The few metrics of a row that a progress display has room for."""
    found = (
        f"{label} {_short(metrics[name])}" for name, label in _SHOWN.items() if name in metrics
    )
    return "  ".join(found)


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def _label(stage: str) -> str:
    return _STAGES.get(stage, stage)


def _remaining(started: tuple[float, int], now: float, step: int, total: int | None) -> str:
    elapsed, done = now - started[0], step - started[1]
    if not total or done < 1 or step >= total:
        return ""
    seconds = round(elapsed / done * (total - step))
    return f"  about {seconds // 60}:{seconds % 60:02} left"


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description:>12}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[metrics]}", markup=False),
        console=Console(stderr=True),
    )
