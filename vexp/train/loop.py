"""Reinforcement learning, step after step (`train_step`), with its checkpoints and metrics."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from vexp.policy import parallel, stopping
from vexp.policy.stopping import Abandoned
from vexp.train import checkpoint, component_state
from vexp.train.checkpoint import State
from vexp.train.device import arithmetic
from vexp.train.learner import Learner, make_learner
from vexp.train.metrics import nothing_kept
from vexp.train.off_policy import PendingBatch, off_policy_step, pending
from vexp.train.step import train_step
from vexp.train.timing import Clock
from vexp.train.tracking import Trackers, tracking
from vexp.train.workspace import stopped

if TYPE_CHECKING:
    from vexp.spec.run import RunSpec
    from vexp.train.workspace import Workspace


def train_rl(
    run: RunSpec, workspace: Workspace, initial: Path | None, last_checkpoint: Path | None
) -> Path | None:
    """Train from the model `initial` (None: the backbone), or on from `last_checkpoint`.

    Returns the last checkpoint (None if there is no step to do, or if another process writes it).

    Raises:
        Interrupted: after saving, when the workspace asked to stop. A step that has not come to its
            updates is given up, and done again by the next attempt.
        Diverged: if loss or gradient is not finite; the last checkpoint is as it was.
    """
    state = (
        State.read(last_checkpoint)
        if last_checkpoint
        else State(memory=component_state.initial(run))
    )
    workspace.resumed(state.step)
    saved = state.step
    with arithmetic(run.compute) as device, tracking(run, workspace) as trackers:
        learner = make_learner(run, initial, last_checkpoint, device)
        late = None
        if run.rl.staleness and state.step < run.rl.steps:
            late = pending(learner, state, last_checkpoint)
        while state.step < run.rl.steps:
            clock, before = Clock(), state
            with stopping.heeding(workspace.stop_requested), contextlib.suppress(Abandoned):
                if late is None:
                    state = train_step(learner, state, clock)
                else:
                    state, late = off_policy_step(learner, state, late, clock)
            if state is not before:
                _tell(run, workspace, trackers, state, clock)
            stop = state is before or parallel.any_rank(workspace.stop_requested())
            due = stop or state.step % run.checkpoint.every == 0 or state.step == run.rl.steps
            if due and state.step > saved:
                last_checkpoint, saved = _save(learner, workspace, state, late), state.step
            if stop and state.step < run.rl.steps:
                raise stopped("rl", state.step, run.rl.steps)
    return last_checkpoint


def _tell(
    run: RunSpec, workspace: Workspace, trackers: Trackers, state: State, clock: Clock
) -> None:
    seconds = clock.row()
    workspace.log_metrics(state.step, state.metrics)
    workspace.log_timing(state.step, seconds)
    if remark := nothing_kept(run, state.metrics):
        workspace.note(f"step {state.step}: {remark}")
    workspace.progress("rl", state.step, run.rl.steps, state.metrics)
    times = {f"seconds/{name.removesuffix('_s')}": value for name, value in seconds.items()}
    trackers.log(state.step, state.metrics | times)


def _save(
    learner: Learner, workspace: Workspace, state: State, late: PendingBatch | None
) -> Path | None:
    if not parallel.is_rank_zero():
        checkpoint.assist(learner.policy, learner.optimizer)
        return None
    workspace.sync()
    homes = workspace.checkpoint_dirs
    former = late.former if late is not None and state.step < learner.run.rl.steps else None
    folder = checkpoint.save(homes[0], state, learner.policy, learner.optimizer, former)
    checkpoint.prune(homes, learner.run.checkpoint.keep, state.step)
    return folder
