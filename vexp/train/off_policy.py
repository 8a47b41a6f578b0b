"""`rl.staleness=1`: the responses of a step come from the weights before the last update.

While step k updates the policy, an engine in a process of its own generates the responses of step
k + 1, with the weights that step k began with. What training learns from them is found out with
those weights, too, which are put back into the policy for it: the log-probs of the importance
ratio, and all that components ask of the policy that sampled. So which engine it is, and whether
it ran meanwhile or afterwards, changes nothing; and a checkpoint needs the former weights only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vexp.errors import CheckpointError
from vexp.policy.stopping import Abandoned
from vexp.train.checkpoint import State
from vexp.train.collect import prefetch
from vexp.train.manifest import FORMER
from vexp.train.step import TrainBatch, rollout_phase, update_phase
from vexp.train.timing import Clock

if TYPE_CHECKING:
    from vexp.policy.policy import Policy
    from vexp.train.learner import Learner


@dataclass(frozen=True)
class PendingBatch:
    """What one step leaves to the next."""

    batch: TrainBatch | None  # of the next step; None after the last one, or if the run is to stop
    former: Mapping[str, Tensor]  # the weights that generated it, on the CPU


def pending(learner: Learner, state: State, last_checkpoint: Path | None) -> PendingBatch:
    """The batch of the step after `state`, generated anew, from `last_checkpoint` if there is one.

    Before the first step there are no former weights: its batch is from those it begins with.

    Raises:
        CheckpointError: if the checkpoint lacks the former weights.
    """
    former = (
        weights(learner.policy)
        if last_checkpoint is None
        else _read(last_checkpoint / FORMER, learner.policy)
    )
    with exchanged(learner.policy, former):
        return PendingBatch(rollout_phase(learner, state, Clock()), former)


def off_policy_step(
    learner: Learner, state: State, before: PendingBatch, clock: Clock
) -> tuple[State, PendingBatch]:
    """One step on the batch that waits, and the next step's batch from the weights before it."""
    batch = before.batch
    assert batch is not None and batch.step == state.step + 1
    run, policy = learner.run, learner.policy
    former = weights(policy)
    last = batch.step == run.rl.steps
    if not last and run.engine.supports_prefetch:
        with clock("generate_s"):
            prefetch(run, policy, step=batch.step + 1, cursor=batch.cursor)
    state = update_phase(learner, batch, state.updates, clock)
    if last:
        return state, PendingBatch(None, former)
    with exchanged(policy, former), contextlib.suppress(Abandoned):
        return state, PendingBatch(rollout_phase(learner, state, clock), former)
    return state, PendingBatch(None, former)


@torch.no_grad()
def weights(policy: Policy) -> dict[str, Tensor]:
    """A copy of what training changes, on the CPU."""
    return {
        name: parameter.detach().to("cpu", copy=True)
        for name, parameter in policy.named_parameters()
        if parameter.requires_grad
    }


@contextlib.contextmanager
def exchanged(policy: Policy, other: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block the policy has the other weights, and `other` holds the policy's."""
    _exchange(policy, other)
    try:
        yield
    finally:
        _exchange(policy, other)


@torch.no_grad()
def _exchange(policy: Policy, other: Mapping[str, Tensor]) -> None:
    for name, parameter in policy.named_parameters():
        if name in other:
            own = parameter.detach().clone()
            parameter.copy_(other[name])
            other[name].copy_(own)


def _read(path: Path, policy: Policy) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    shapes = {name: p.shape for name, p in policy.named_parameters() if p.requires_grad}
    try:
        found: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError):
        found = {}
    if {name: tensor.shape for name, tensor in found.items()} != shapes:
        raise CheckpointError(
            "the weights before the last update are missing or of another model",
            where=str(path),
            remedy="delete this checkpoint; the run goes on from the one before it",
        )
    return found
