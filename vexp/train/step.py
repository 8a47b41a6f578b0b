"""The two halves of a step: a rollout batch made ready for learning, and the updates on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vexp.policy import sharding
from vexp.registry import Memory
from vexp.train import metrics, replay
from vexp.train.checkpoint import State
from vexp.train.collect import collect, to_experience
from vexp.train.learner import Learned, Learner, Lesson
from vexp.train.timing import Clock


@dataclass(frozen=True)
class Prepared:
    """The first half of a step, all of it from the policy that generated."""

    step: int
    cursor: int  # prompts drawn from the mix so far
    row: Mapping[str, float]  # the step's metrics so far
    lesson: Lesson | None  # None: no group passed the filter
    memory: Mapping[str, Memory]  # what components remember after this step


def prepare(learner: Learner, state: State, clock: Clock) -> Prepared:
    """Generate, score and observe the batch of the step after `state`."""
    run, step, memory = learner.run, state.step + 1, state.memory
    lesson = None
    with sharding.whole(learner.policy):
        collected = collect(run, learner.policy, step=step, cursor=state.cursor, clock=clock)
        run.engine.rest()
        experience = to_experience(run, learner.policy, collected)
        with clock("update_s"):
            if experience is not None:
                experience = replay.refilled(run, learner.policy, experience, memory, step)
            if experience is not None:
                lesson = learner.prepare(experience, step)
    row: dict[str, float] = dict(metrics.of_rollouts(collected, run.rollout.responses_per_prompt))
    if lesson is not None:
        row |= metrics.of_experience(run, lesson.experience)
        row = metrics.with_observed(run, row, lesson.experience)
        memory = replay.remembered(run, lesson.experience, memory)
    return Prepared(step, collected.cursor, row, lesson, memory)


def learn(learner: Learner, batch: Prepared, updates: int, clock: Clock) -> State:
    """The updates on a batch, after `updates` others; the state after the step."""
    learned = Learned(0, {})
    if batch.lesson is not None:
        with clock("update_s"):
            learned = learner.update(batch.lesson, step=batch.step, updates=updates)
    row = {**batch.row, "updates": learned.updates, **learned.metrics}
    return State(
        step=batch.step,
        cursor=batch.cursor,
        updates=updates + learned.updates,
        metrics=metrics.checked(row, learner.run.checkpoint.keep, batch.step),
        memory=batch.memory,
    )
