"""A backbone and an evaluator without torch, for tests of what happens around training."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vexp.backbone.base import Backbone
from vexp.evaluator.base import Evaluator, Sample
from vexp.registry import register


@register("backbone", "stub")
@dataclass(frozen=True, kw_only=True)
class StubBackbone(Backbone):
    """Its policy is the text of weights.json."""

    start: int = 0

    def load(self, checkpoint: Path | None = None, **settings: Any) -> Any:
        count("loaded")
        if checkpoint is None:
            return self.start
        return json.loads((checkpoint / "weights.json").read_text())["value"]


@register("evaluator", "stub")
@dataclass(frozen=True, kw_only=True)
class StubEvaluator(Evaluator):
    """Scores `size` samples by arithmetic on the weights."""

    size: int = 6
    offset: int = 0
    fails_at: int = -1

    def protocol(self, run: Any) -> Mapping[str, Any]:
        return {"size": self.size, "offset": self.offset}

    def samples(self, policy: Any, run: Any, start: int = 0) -> Iterator[Sample]:
        for index in range(start, self.size):
            if index == self.fails_at:
                raise ValueError("the scorer is broken")
            count("scored")
            time.sleep(float(os.environ.get("STUB_SAMPLE_S", "0")))
            yield Sample(
                id=f"q/{index}",
                question="?",
                answer="1",
                response="1",
                extracted="1",
                correct=float((policy + index + self.offset) % 2),
                tag="single" if index % 2 else "multi",
                status="ok",
                length=3,
            )

    def metrics(self, samples: list[Sample]) -> dict[str, dict[str, float | None]]:
        value = sum(s.correct for s in samples) / len(samples)
        return {"accuracy": {"value": value, "stderr": 0.25, "n": len(samples)}}


def count(what: str) -> None:
    """Leave a trace of how often something happened, for whoever asked for it."""
    if "STUB_COUNTS" in os.environ:
        with Path(os.environ["STUB_COUNTS"]).open("a") as file:
            file.write(f"{what}\n")
