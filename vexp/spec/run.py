"""The configuration of one run: its sections, and which of them decide the trained weights."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import InitVar, dataclass, field
from typing import Annotated, Any, Literal, get_args

from vexp.algorithm.base import Algorithm
from vexp.auxiliary.base import Auxiliary
from vexp.backbone.base import Backbone
from vexp.config.types import (
    UNHASHED,
    USER_PATH,
    Between,
    Count,
    Elsewhere,
    Fraction,
    Neutral,
    NonNegative,
    Positive,
    PositiveInt,
)
from vexp.correction.base import Correction
from vexp.correction.none import Uncorrected
from vexp.credit.base import CreditMethod
from vexp.engine.base import Engine
from vexp.errors import ConfigError, Problem
from vexp.evaluator.base import Evaluator
from vexp.group_filter.base import GroupFilter
from vexp.launcher.base import Launcher
from vexp.mix.base import Mix
from vexp.policy.options import Attention, Precision
from vexp.registry import Component, component_slots, slot
from vexp.reward.base import RewardTerm
from vexp.rollout.base import RolloutMethod
from vexp.spec.problems import contradictions_of, problems_of
from vexp.tracker.base import Tracker
from vexp.verifier.base import Verifier

FrozenPart = Literal["vision"]
Shard = Literal["none", "fsdp2", "zero1", "zero2"]
RowAlignment = Literal["own", "predictor"]
StageName = Literal["warm_start", "anchor", "rl"]  # in the order in which they run
STAGES: tuple[StageName, ...] = get_args(StageName)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """How a question is put to the model. The response format decides what `format` rewards."""

    system: str = ""  # system message; empty for none
    instruction: str = ""  # appended to the question on a new line; empty for none
    response_format: Literal["think_boxed", "answer_tag"] = "think_boxed"
    # Tokens of the longest prompt, its image included; a longer one is refused before training.
    # null: what the model's context leaves beside a response.
    max_length: Annotated[PositiveInt | None, Neutral(None)] = None


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """AdamW; the learning rate rises linearly over `ramp_steps` and follows `schedule`."""

    learning_rate: Positive = 1e-6
    ramp_steps: Count = 0  # optimiser steps over which the learning rate rises from 0
    # How the rate goes on after the ramp; linear and cosine fall until the end of the stage.
    schedule: Annotated[Literal["constant", "linear", "cosine"], Neutral("constant")] = "constant"
    min_lr_ratio: Annotated[Fraction, Neutral(0.0)] = 0.0  # where they end, as a share of the rate
    # adamw_8bit keeps the moments in 8 bits (bitsandbytes): 2 bytes a weight instead of 8
    optimizer: Annotated[Literal["adamw", "adamw_8bit"], Neutral("adamw")] = "adamw"
    weight_decay: NonNegative = 0.0
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    max_grad_norm: Positive | None = 1.0  # null: gradients are not clipped
    # Parts of the backbone that stay as they are: [vision] is the vision tower.
    freeze: Annotated[tuple[FrozenPart, ...], Neutral(())] = ()


@dataclass(frozen=True, kw_only=True)
class Supervised(Optimization):
    """Imitation of the dataset's demonstrations. Runs that agree on such a stage share it."""

    steps: Count = 200
    batch_size: PositiveInt = 64  # items per optimiser step
    seed: Count = 0  # order of the items; a key of its own, so that seeds can share this stage


@dataclass(frozen=True, kw_only=True)
class WarmStart(Supervised):
    """Supervised stage: demonstrations as they are."""


@dataclass(frozen=True, kw_only=True)
class Anchor(Supervised):
    """Supervised stage: demonstrations that begin with what `focus` emits, and the loss of `focus`.

    Faithful-MR1's first stage, a reconstruction; the paper's settings are not known to us.
    """

    learning_rate: Positive = 1e-5
    focus: Auxiliary = slot("auxiliary", "focus_anchor")  # what is added to the imitation's loss


@dataclass(frozen=True, kw_only=True)
class RL(Optimization):
    """Reinforcement learning from verifiable rewards."""

    steps: Count = 60  # rollout batches
    prompts_per_step: PositiveInt = 16  # groups per rollout batch
    prompts_per_update: PositiveInt | None = None  # groups per optimiser step; null: all of them
    epochs_per_step: PositiveInt = 1  # passes over each rollout batch
    # Whose attention and last hidden state a component reads for a response token: those of the
    # token itself, or those of the position before it, which predicts it.
    row_alignment: Annotated[RowAlignment, Neutral("own")] = "own"
    # How many updates old the weights are that generate: 0, or 1 to generate while updating.
    staleness: Annotated[int, Between(0, 1), Neutral(0)] = 0
    # What is done where the engine's log-probs differ from the trainer's.
    correction: Annotated[Correction, Neutral(Uncorrected())] = slot("correction", "none")
    # Log the entropy of the policy over its responses; the experience pass then looks at all tokens
    # of the vocabulary.
    log_entropy: Annotated[bool, UNHASHED] = False


@dataclass(frozen=True, kw_only=True)
class Reward:
    """The reward of a response: the weighted sum of its terms."""

    terms: dict[str, RewardTerm] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Where and how the arithmetic runs; only precision and attention kernel change a result."""

    precision: Precision = "fp32"
    attention: Attention = "auto"
    device: Annotated[Literal["auto", "cpu", "cuda"], UNHASHED] = "auto"
    # Processes that share the work, one per GPU; null: what the launcher gives, or else 1.
    processes: Annotated[PositiveInt | None, UNHASHED] = None
    # What processes hold a shard of in place of all: moments (zero1, DeepSpeed), gradients as well
    # (zero2), or weights, gradients and moments (fsdp2, torch).
    shard: Annotated[
        Shard, UNHASHED, Elsewhere("zero3", "use fsdp2, which has the weights in shards as well")
    ] = "none"
    threads: Annotated[PositiveInt | None, UNHASHED] = (
        None  # CPU threads of a process; null: torch's
    )
    micro_batch_size: Annotated[PositiveInt, UNHASHED] = 64  # responses per forward pass
    # compute activations again in the backward pass: less memory, more time, the same numbers
    gradient_checkpointing: Annotated[bool, UNHASHED] = False


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Which checkpoints survive; everything else is deleted as soon as a newer one is complete."""

    latest: PositiveInt = 1
    best: Count = 0
    by: str = "reward"  # metric that decides what is best; higher is better
    every: Count = 0  # also keep each n-th step; 0 for none


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """How often state is saved, and what is kept."""

    every: PositiveInt = 20  # steps
    keep: Keep = field(default_factory=Keep)


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run, resolved and typed. Which components it has is chosen in conf/config.yaml."""

    seed: Count = 1
    stages: tuple[StageName, ...] = ("warm_start", "rl")
    backbone: Backbone
    mix: Mix
    prompt: Prompt = field(default_factory=Prompt)
    warm_start: WarmStart = field(default_factory=WarmStart)
    anchor: Anchor = field(default_factory=Anchor)
    rl: RL = field(default_factory=RL)
    rollout: RolloutMethod
    engine: Engine
    group_filter: GroupFilter
    verifier: Verifier
    reward: Reward = field(default_factory=Reward)
    algorithm: Algorithm
    credit: CreditMethod
    auxiliary: dict[str, Auxiliary] = field(default_factory=dict)
    evaluator: dict[str, Evaluator] = field(default_factory=dict)
    compute: Compute = field(default_factory=Compute)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    tracker: dict[str, Tracker] = field(default_factory=dict)
    launcher: Launcher
    results_dir: Annotated[str, USER_PATH] = "results"
    plugins: tuple[str, ...] = ()
    # `problems_of`, or what remembers its answers: a sweep has many runs, most of them alike.
    check: InitVar[Callable[[RunSpec], list[Problem]] | None] = None

    def __post_init__(self, check: Callable[[RunSpec], list[Problem]] | None) -> None:
        if found := (check or problems_of)(self):
            raise ConfigError(found)

    @property
    def processes(self) -> int:
        """How many processes share the work, as far as the config says."""
        launched: int = getattr(self.launcher, "nodes", 1) * getattr(
            self.launcher, "tasks_per_node", 1
        )
        return self.compute.processes or launched

    def components(self) -> Iterator[tuple[str, Component]]:
        """Every component of the run with its dotted path; not those of stages it does not have."""
        return iter(self._components)

    @functools.cached_property
    def _components(self) -> tuple[tuple[str, Component], ...]:
        idle = tuple(f"{stage}." for stage in STAGES if stage not in self.stages)
        found = component_slots(self)
        return tuple([entry for entry in found if not entry[0].startswith(idle)])

    def emits(self, stage: str) -> Mapping[str, tuple[str, ...]]:
        """Special tokens that may be sampled in a stage, each with the words it starts from.

        They are those of the components that this stage and those before it read.
        """
        stages = self.stages[: self.stages.index(stage) + 1]
        read = {"backbone", "mix"} | {name for before in stages for name in STAGE_SECTIONS[before]}
        found: dict[str, tuple[str, ...]] = {}
        for path, component in self.components():
            if path.partition(".")[0] in read:
                for token in component.emits:
                    found.setdefault(token, component.emits_like)
        return found

    def unknown(self) -> list[Problem]:
        """What this machine cannot tell of the run's inputs; its id is provisional while any is."""
        return [problem for _, component in self.components() for problem in component.unknown()]


@dataclass(frozen=True, kw_only=True)
class StoredRunSpec(RunSpec):
    """A run as it was created: what has since come to be refused before training is no matter."""

    def __post_init__(self, check: Callable[[RunSpec], list[Problem]] | None) -> None:
        super().__post_init__(check or contradictions_of)


# Sections that each stage reads; together with backbone, data, prompt and compute they decide what
# its weights are. Everything else about a run is recorded, not hashed.
STAGE_SECTIONS: dict[str, tuple[str, ...]] = {
    "warm_start": ("warm_start",),
    "anchor": ("anchor",),
    "rl": (
        "seed",
        "rl",
        "rollout",
        "engine",
        "group_filter",
        "verifier",
        "reward",
        "algorithm",
        "credit",
        "auxiliary",
    ),
}


# Sections that say nothing when they are empty; so the ids of before they existed stay.
OPTIONAL = ("auxiliary",)


def science(run: RunSpec, stages: tuple[str, ...] | None = None) -> dict[str, Any]:
    """The part of a run that decides its weights after `stages` (default: all of them).

    The keys are section names; a run without stages is its backbone as it is.
    """
    chosen = run.stages if stages is None else stages
    names = ["backbone", "compute"]
    if chosen:
        names += ["mix", "prompt", "plugins"]
    for stage in chosen:
        names += [
            name for name in STAGE_SECTIONS[stage] if name not in OPTIONAL or getattr(run, name)
        ]
    return {"stages": chosen} | {name: getattr(run, name) for name in names}


def replace(run: RunSpec, **sections: Any) -> RunSpec:
    """A copy of the run with whole sections replaced; checked again as a whole."""
    return dataclasses.replace(run, **sections)
