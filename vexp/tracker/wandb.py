"""Weights & Biases, online or as files that `wandb sync` uploads later."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vexp.errors import Problem
from vexp.files import read_json, write_json
from vexp.registry import register
from vexp.tracker.base import Tracker, Tracking, missing_package

if TYPE_CHECKING:
    from vexp.spec.run import RunSpec


class _WandbRun:
    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


@register("tracker", "wandb")
@dataclass(frozen=True, kw_only=True)
class Wandb(Tracker):
    """One wandb run per training run, continued under its id when the training resumes.

    The key is read from the environment (WANDB_API_KEY) or from `wandb login`, never from a config.
    """

    project: str = "vexp"  # where the run appears
    entity: str | None = None  # team or user; null: the account's default
    group: str | None = None  # name under which wandb shows several runs as one
    mode: Literal["offline", "online", "disabled"] = "offline"  # offline needs no account

    def problems(self, run: RunSpec) -> Iterator[Problem]:
        if self.mode != "disabled":
            yield from missing_package("wandb", extra="wandb")

    def start(self, *, run_id: str, folder: Path, config: Mapping[str, Any]) -> Tracking:
        import wandb

        if self.mode == "online" and not wandb.api.api_key:  # wandb would ask and wait
            raise RuntimeError("no key: set WANDB_API_KEY or run `wandb login`")
        return _WandbRun(
            wandb.init(
                project=self.project,
                entity=self.entity,
                group=self.group,
                mode=self.mode,
                name=run_id,
                id=self._wandb_id(folder),
                resume="allow" if self.mode == "online" else None,
                dir=str(folder),
                config=dict(config),
                settings=wandb.Settings(silent=True, console="off", disable_git=True),
            )
        )

    def _wandb_id(self, folder: Path) -> str:
        """The id of this run at wandb: random, made once, and kept beside its files."""
        known = read_json(folder / "wandb.json")
        if isinstance(known, dict) and isinstance(known.get("id"), str):
            return str(known["id"])
        fresh = uuid.uuid4().hex[:12]
        write_json(folder / "wandb.json", {"id": fresh})
        return fresh
