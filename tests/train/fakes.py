"""Small stand-ins for what training is built from, and a workspace that is just a folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vexp.train.experience import Experience


@dataclass(frozen=True)
class Prompts:
    """Numbered prompts, with the one method of a PromptBatch that selecting needs."""

    numbers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    def select(self, indices: Any) -> Prompts:
        return Prompts(tuple(self.numbers[int(i)] for i in indices))


def experience(**fields: Any) -> Experience:
    """An experience from a mask, a group index and whatever else the test is about."""
    mask, group = fields["mask"], fields["group"]
    defaults = {
        "prompts": Prompts(tuple(range(int(group.max()) + 1))),
        "tokens": torch.zeros(mask.shape, dtype=torch.long),
        "rewards": torch.zeros(len(mask), dtype=torch.float64),
        "sampling_logprobs": torch.zeros(mask.shape),
    }
    return Experience(**(defaults | fields))


@dataclass
class Folder:
    """A Workspace in a folder: one attempt unless `attempt` is raised; stops where it is told to."""

    root: Path
    attempt: int = 1
    stop_after: int | None = None  # progress reports, warm start included
    metrics: list[dict[str, Any]] = field(default_factory=list)
    timings: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seen: list[tuple[str, int]] = field(default_factory=list)
    resumed_at: list[int] = field(default_factory=list)
    built: list[str] = field(default_factory=list)

    run_id = "test-run"

    @property
    def tracking_dir(self) -> Path:
        return self.root / "tracking"

    @property
    def checkpoint_dirs(self) -> list[Path]:
        return [self.root / f"{n}" / "checkpoints" for n in range(self.attempt, 0, -1)]

    def build_once(self, stage: str, key: str, build: Any) -> Path:
        target = self.root / "stages" / f"{stage}-{key}"
        if not target.exists():
            self.built.append(stage)
            work, output = self.root / "work", self.root / f"output-{self.attempt}"
            work.mkdir(parents=True, exist_ok=True)
            output.mkdir(exist_ok=True)
            build(work, output)
            target.parent.mkdir(exist_ok=True)
            output.rename(target)
        return target

    def resumed(self, step: int) -> None:
        self.resumed_at.append(step)

    def log_metrics(self, step: int, row: Any) -> None:
        self.metrics.append({"step": step, **row})

    def log_timing(self, step: int, row: Any) -> None:
        self.timings.append({"step": step, **row})

    def sync(self) -> None: ...

    def progress(self, stage: str, step: int, total: int, row: Any) -> None:
        self.seen.append((stage, step))

    def stop_requested(self) -> bool:
        return len(self.seen) == self.stop_after

    def note(self, text: str) -> None:
        self.notes.append(text)
