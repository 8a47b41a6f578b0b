"""One step of reinforcement learning, in the order of the papers.

A step has two phases, so that `rl.staleness` can put other updates between them: all that is done
by the policy that sampled the responses, and the updates of the policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vexp.experience.batch import Experience
from vexp.policy import sharding
from vexp.registry import ComponentState
from vexp.train import metrics, replay
from vexp.train.batch import (
    with_auxiliary_weights,
    with_credit,
    with_loss_weights,
    with_outcome,
    with_rewards,
    with_signals,
)
from vexp.train.checkpoint import State
from vexp.train.collect import collect, to_experience
from vexp.train.learner import Learner, UpdateStats
from vexp.train.timing import Clock


@dataclass(frozen=True)
class TrainBatch:
    """A rollout batch with its advantages, and what is known of its step before the updates."""

    step: int
    cursor: int  # prompts drawn from the mix so far
    metrics: Mapping[str, float]
    experience: Experience | None  # None: no group passed the filter
    memory: Mapping[str, ComponentState]  # what components remember after this step


def train_step(learner: Learner, state: State, clock: Clock) -> State:
    """prompts -> responses -> rewards -> filter -> experience -> advantages -> loss -> update"""
    return update_phase(learner, rollout_phase(learner, state, clock), state.updates, clock)


def rollout_phase(learner: Learner, state: State, clock: Clock) -> TrainBatch:
    """prompts -> responses -> rewards -> filter -> experience -> advantages"""
    run, policy, step = learner.run, learner.policy, state.step + 1
    with sharding.unsharded(policy):
        # prompts, responses, verdicts, rewards of texts; again until enough groups pass the filter
        rollouts = collect(run, policy, step=step, cursor=state.cursor, clock=clock)
        run.engine.release_memory()
        with clock("update_s"):
            batch = to_experience(run, policy, rollouts)
            batch = replay.refilled(run, policy, batch, state.memory, step)
            batch = with_advantages(learner, batch, step) if batch is not None else None
    row = metrics.of_step(run, rollouts, batch)
    memory = replay.remembered(run, batch, state.memory)
    return TrainBatch(step, rollouts.cursor, row, batch, memory)


def with_advantages(learner: Learner, batch: Experience, step: int) -> Experience:
    """experience -> advantages"""
    run = learner.run
    batch = with_signals(learner, batch, step)  # entropy, attention, ...: each forward pass once
    batch = with_rewards(run, batch)  # terms that read signals join those that read text
    batch = with_outcome(run, batch)  # [rollout] advantage of the whole response
    batch = with_auxiliary_weights(run, batch, step)  # [rollout, token] of each auxiliary loss
    batch = with_credit(run, batch)  # [rollout, token] advantages
    return with_loss_weights(run, batch)  # [rollout, token] how the loss is averaged


def update_phase(learner: Learner, batch: TrainBatch, updates: int, clock: Clock) -> State:
    """loss -> update; `updates` optimiser steps were done before"""
    stats = UpdateStats(0, {})
    if batch.experience is not None:
        with clock("update_s"):
            stats = learner.update(batch.experience, step=batch.step, updates=updates)
    row = {**batch.metrics, "updates": stats.updates, **stats.metrics}
    return State(
        step=batch.step,
        cursor=batch.cursor,
        updates=updates + stats.updates,
        metrics=metrics.checked(row, learner.run.checkpoint.keep, batch.step),
        memory=batch.memory,
    )
