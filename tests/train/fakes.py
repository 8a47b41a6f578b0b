"""Small stand-ins for what training is built from, and a workspace that is just a folder."""

from __future__ import annotations

import dataclasses
import shutil
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from tests.layouts import layouts
from vexp.engine.base import Engine, Generated
from vexp.experience.batch import Experience
from vexp.probe.layout import Layout
from vexp.spec.resolve import resolve
from vexp.spec.run import RunSpec
from vexp.verifier.base import Verdict, Verifier

# Overrides for a run whose step takes a tenth of a second.
SMALLEST = (
    "backbone.layers=2",
    "backbone.hidden_size=64",
    "backbone.heads=2",
    "backbone.vision_depth=1",
    "backbone.vision_hidden_size=32",
    "backbone.vision_heads=2",
    "rl.prompts_per_step=4",
    "rollout.group_size=4",
    "rollout.max_response_length=5",
    "compute.device=cpu",
    "compute.threads=1",
)


@dataclass(frozen=True)
class Prompts:
    """Numbered prompts, with the one method of a PromptBatch that selecting needs."""

    numbers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def layouts(self) -> tuple[Layout, ...]:
        return layouts(*[(2, 2)] * len(self))

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
    """A Workspace in a folder: the first attempt unless told otherwise; stops where it is told."""

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
            work, output = self.root / f"work-{stage}", self.root / f"output-{self.attempt}"
            work.mkdir(parents=True, exist_ok=True)
            output.mkdir(exist_ok=True)
            build(work, output)
            target.parent.mkdir(exist_ok=True)
            output.rename(target)
            shutil.rmtree(work)
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


@dataclass(frozen=True, kw_only=True)
class Scripted(Engine):
    """Gives the n-th prompt it ever sees `right[n]` right responses; the rest are wrong."""

    name = "scripted"
    right: tuple[int, ...] = ()
    calls: list[list[str]] = field(default_factory=list)

    def generate(self, policy: Any, prompts: Any, item_ids: Any, sampling: Any) -> Generated:
        done = sum(len(call) for call in self.calls)
        self.calls.append(list(item_ids))
        size = sampling.group_size
        rows = [
            int(k < self.right[(done + n) % len(self.right)])
            for n in range(len(item_ids))
            for k in range(size)
        ]
        width = 2 + len(self.calls)  # batches of different widths
        tokens = torch.tensor(rows)[:, None].expand(-1, width).clone()
        mask = torch.arange(width).expand(len(rows), -1) < 2
        return Generated(
            tokens=tokens,
            mask=mask,
            logprobs=-torch.ones(tokens.shape) * mask,
            finished=torch.tensor(rows) > 0,
        )


@dataclass(frozen=True, kw_only=True)
class SaysRight(Verifier):
    """Right is who says so."""

    name = "says_right"

    def verdict(self, response: str, gold: str) -> Verdict:
        return Verdict(float(response == "right"))


@dataclass(frozen=True, kw_only=True)
class Coin(Verifier):
    """Half of all texts are right, whatever they say: an untrained policy learns from it, too."""

    name = "coin"

    def verdict(self, response: str, gold: str) -> Verdict:
        return Verdict(float(zlib.crc32(response.encode()) % 2))


def coin_run(*overrides: str) -> RunSpec:
    """A run whose rewards are tosses of a coin."""
    return dataclasses.replace(resolve([*SMALLEST, *overrides]), verifier=Coin())


class Reader:
    """What collecting needs of a policy; remembers what it encoded."""

    device = torch.device("cpu")
    pad_id = 9
    layers = 2
    emits: ClassVar[dict[str, int]] = {}
    opening: ClassVar[str] = ""

    def __init__(self) -> None:
        self.encoded: list[list[str]] = []

    def encode(self, items: Any, prompt: Any) -> Prompts:
        self.encoded.append([item.id for item in items])
        return Prompts(tuple(range(len(items))))

    def decode(self, tokens: Any, mask: Any) -> list[str]:
        return ["right" if row[0] else "wrong" for row in tokens.tolist()]
