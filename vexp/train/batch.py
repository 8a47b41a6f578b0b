"""A step's batch on its way from experience to updates: every function adds one thing to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vexp.errors import VexpError
from vexp.experience.batch import Experience, even_micro_batches
from vexp.experience.observe import SignalRequest, asking, observe, requested
from vexp.policy import parallel, sharding
from vexp.reward._total import with_observed
from vexp.train import auxiliary

if TYPE_CHECKING:
    from vexp.spec.run import RunSpec
    from vexp.train.learner import Learner


def with_signals(learner: Learner, batch: Experience, step: int) -> Experience:
    """The batch with log-probs, entropy, attention and counterfactuals that components need.

    They are [rollout, token], of the policy that sampled and of the reference, without a gradient.

    Where old log-probs are all that is wanted, only rows that will have a gradient are looked at.
    They are taken in the micro-batches of the updates, so that the first ratio is 1 to the last
    bit.
    """
    run = learner.run
    request = requested(run, batch.layers, several_updates=off_policy(run))
    only_old = request == SignalRequest(old_logprobs=True, predictor=request.predictor)
    if only_old and "old_logprobs" not in needs(run):
        scored = with_auxiliary_weights(run, with_outcome(run, with_rewards(run, batch)), step)
        updates = update_plan(run, scored)
    else:
        updates = _plan(run, batch, mini_batches(run, batch))
    with sharding.unsharded(learner.policy), sharding.unsharded(learner.reference):
        return observe(
            batch,
            learner.policy,
            learner.reference,
            [rows for update in updates for rows in update],
            request,
            temperature=run.rollout.temperature,
            seed=run.seed,
            step=step,
        )


def with_rewards(run: RunSpec, batch: Experience) -> Experience:
    """The batch with `rewards` [rollout] of all terms: those of texts, and those that read signals.

    Raises:
        VexpError: names the term that returned a number that is not finite.
    """
    return dataclasses.replace(batch, rewards=with_observed(run.reward.terms, batch))


def with_outcome(run: RunSpec, batch: Experience) -> Experience:
    """The batch with `outcome` [rollout]: the advantage of each response, as float64.

    Replayed rollouts come with theirs.
    """
    if batch.outcome is not None:
        return batch
    outcome = run.algorithm.advantages(batch.rewards, batch.group).double()
    return dataclasses.replace(batch, outcome=outcome)


def with_auxiliary_weights(run: RunSpec, batch: Experience, step: int) -> Experience:
    """The batch with `auxiliary`: weights [rollout, token] of each loss, from one update's rows."""
    updates = mini_batches(run, batch)
    weights = auxiliary.weights(run.auxiliary, batch, updates, seed=run.seed, step=step)
    return dataclasses.replace(batch, auxiliary=weights)


def with_credit(run: RunSpec, batch: Experience) -> Experience:
    """The batch with `advantages` [rollout, token]: the outcome shared out over tokens, as float32.

    Raises:
        VexpError: if the credit method returned an advantage that is not finite.
    """
    assert batch.outcome is not None
    advantages = run.credit.advantages(batch.outcome, batch).to(torch.float32)
    if not bool(advantages.isfinite().all()):
        raise VexpError(
            "the credit method returned an advantage that is not finite",
            where=f"credit ({run.credit.name})",
            remedy="mend it: every token needs a finite advantage, 0 outside the mask",
        )
    return dataclasses.replace(batch, advantages=advantages)


def with_loss_weights(run: RunSpec, batch: Experience) -> Experience:
    """The batch with `weights` [rollout, token] in the loss of the one update of each row."""
    weights = torch.zeros(batch.mask.shape, device=batch.mask.device)
    for rows in mini_batches(run, batch):
        weights[rows] = run.algorithm.token_weights(
            batch.mask[rows], run.rollout.max_response_length
        )
    return dataclasses.replace(batch, weights=weights)


def mini_batches(run: RunSpec, batch: Experience) -> list[list[int]]:
    """Rows of each optimiser step: `prompts_per_update` groups at a time, in order.

    A group of a former step counts by the place in the step that it takes.
    """
    slots = (batch.group if batch.slot is None else batch.slot).tolist()
    groups = sorted(set(slots))
    size = run.rl.prompts_per_update or len(groups)
    chosen = [set(groups[start : start + size]) for start in range(0, len(groups), size)]
    return [[row for row, slot in enumerate(slots) if slot in each] for each in chosen]


def update_plan(run: RunSpec, batch: Experience) -> list[list[list[int]]]:
    """Rows of each micro-batch of each optimiser step of an epoch.

    Rows without an outcome advantage have a gradient of exactly zero unless a KL or an auxiliary
    loss acts on them, so they are left out; a mini-batch that has no other rows is passed over.
    """
    updates = mini_batches(run, batch)
    if run.algorithm.kl_coef:
        return _plan(run, batch, updates)
    useful = _rows_with_gradient(run, batch)
    chosen = [[row for row in rows if row in useful] for rows in updates]
    return _plan(run, batch, [rows for rows in chosen if rows])


def _rows_with_gradient(run: RunSpec, batch: Experience) -> Collection[int]:
    assert batch.outcome is not None
    useful: Tensor = batch.outcome != 0
    for name, weights in batch.auxiliary.items():
        if run.auxiliary[name].coef:
            useful = useful | (weights != 0).any(dim=1)
    return set(useful.nonzero().flatten().tolist())


def _plan(run: RunSpec, batch: Experience, updates: list[list[int]]) -> list[list[list[int]]]:
    """The micro-batches of updates; with several processes, as many for each as can be."""
    group, size = batch.group.tolist(), run.compute.micro_batch_size
    return [even_micro_batches(group, rows, size, parallel.world_size()) for rows in updates]


def needs(run: RunSpec) -> set[str]:
    """Names of what the run's components need of the experience; see `Component.required`."""
    return {need for component in asking(run) for need in component.required()}


def several_updates(run: RunSpec) -> bool:
    """True if a rollout batch is used for more than one optimiser step."""
    per_update = run.rl.prompts_per_update or run.rl.prompts_per_step
    return run.rl.epochs_per_step > 1 or per_update < run.rl.prompts_per_step


def off_policy(run: RunSpec) -> bool:
    """True if the policy that is updated may be another one than that which sampled."""
    return several_updates(run) or run.rl.staleness > 0
