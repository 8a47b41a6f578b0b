"""How far the two sides are apart, and which of TRL's settings mean the same as our algorithms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.trl_side import TrlSettings
from benchmarks.workload import Workload

if TYPE_CHECKING:
    from torch import Tensor

# What TRL has to be told to compute each of our algorithms at its defaults.
SAME: dict[str, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo", "epsilon": 0.2, "beta": 1e-3},
    "grpo_clip_higher": {
        "loss_type": "dapo",
        "epsilon": 0.2,
        "epsilon_high": 0.3,
        "delta": 3.0,
        "beta": 1e-2,
    },
    "dapo": {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28},
    "dr_grpo": {"loss_type": "dr_grpo", "epsilon": 0.2},
    "gspo": {
        "loss_type": "grpo",
        "importance_sampling_level": "sequence",
        "epsilon": 3e-4,
        "epsilon_high": 4e-4,
    },
}


@dataclass(frozen=True)
class Difference:
    """One comparison of the two sides."""

    name: str
    ours: float  # our loss
    trl: float  # TRL's loss
    gradient: float  # largest difference of an entry, relative to the largest entry
    logprobs: float  # largest difference of a token's log-prob; 0 where both were given them
    tolerance: float

    @property
    def loss(self) -> float:
        """Difference of the two losses."""
        return abs(self.ours - self.trl)

    @property
    def ok(self) -> bool:
        """Whether all three are within the tolerance (NaN is not)."""
        return all(x <= self.tolerance for x in (self.loss, self.gradient, self.logprobs))


@dataclass(frozen=True)
class Side:
    """What one side made of a batch."""

    loss: float
    gradients: Sequence[Tensor]
    logprobs: Tensor | None = None  # [rollout, token]


def difference(name: str, ours: Side, trl: Side, mask: Tensor, tolerance: float) -> Difference:
    """Compare two sides; log-probs within the mask only."""
    apart = 0.0
    if ours.logprobs is not None and trl.logprobs is not None:
        apart = float((ours.logprobs - trl.logprobs)[mask].abs().max())
    pairs = list(zip(ours.gradients, trl.gradients, strict=True))
    largest = max(float(theirs.abs().max()) for _, theirs in pairs)
    gradient = max(float((own - theirs).abs().max()) for own, theirs in pairs) / largest
    return Difference(name, ours.loss, trl.loss, gradient, apart, tolerance)


def trl_settings(
    workload: Workload, folder: Path, suppress: list[int], micro_batch: int, algorithm: str
) -> TrlSettings:
    """TRL on this workload with one of our algorithms.

    The weight of the KL stays out: TRL would load a reference model, whose log-probs we give it.
    """
    options = {key: value for key, value in SAME[algorithm].items() if key != "beta"}
    return TrlSettings(
        folder=str(folder),
        length=workload.length,
        steps=workload.steps,
        prompts=workload.prompts,
        group_size=workload.group_size,
        threads=workload.threads,
        learning_rate=workload.learning_rate,
        suppress=suppress,
        micro_batch=micro_batch,
        options=options,
    )
