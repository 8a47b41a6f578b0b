"""The supervised stage: imitate the demonstrations. Shared by all runs that agree on it."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vexp.config.identity import stage_key
from vexp.dataset.base import Item
from vexp.errors import CheckpointError, DataError
from vexp.files import append_line, read_lines, write_text
from vexp.spec import Keep
from vexp.train import checkpoint
from vexp.train.checkpoint import MODEL, State
from vexp.train.collect import draw
from vexp.train.device import arithmetic, make_accelerator
from vexp.train.learner import load
from vexp.train.optimizer import apply_gradients, diverged, learning_rate, make_optimizer
from vexp.train.workspace import stopped

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.optim import Optimizer

    from vexp.spec import RunSpec
    from vexp.train.policy import Policy, PolicyOutput
    from vexp.train.workspace import Workspace

STAGE = "warm_start"
METRICS = "metrics.jsonl"
LONGEST = 32768  # tokens of a demonstration; longer ones are cut


def warm_start(run: RunSpec, workspace: Workspace) -> Path:
    """The model folder after the stage; built here if no run has built it yet.

    Raises:
        DataError: if an item has no demonstration.
        CheckpointError: if the stage's folder was damaged after it was built.
    """
    build = functools.partial(_build, run, workspace)
    folder = workspace.build_once(STAGE, stage_key(run, STAGE), build)
    wrong = checkpoint.damage(folder)
    if wrong is not None:
        raise CheckpointError(
            f"the finished stage {STAGE!r} is damaged: {wrong}",
            where=str(folder),
            remedy="delete this folder; the stage is then built again",
        )
    return folder / MODEL


def _build(run: RunSpec, workspace: Workspace, work: Path, output: Path) -> None:
    """Train in `work`, resuming what an interrupted builder left there, and put the model out."""
    settings, total = run.warm_start, run.warm_start.steps
    with arithmetic(run.compute) as device:
        found = checkpoint.newest([work], total, workspace.note)
        state = State.read(found) if found else State()
        policy = load(run, found / MODEL if found else None, device)
        optimizer = make_optimizer(policy, settings)
        if found is not None and state.step < total:
            checkpoint.load_optimizer(found, policy, optimizer)
        accelerator = make_accelerator(run.compute)
        policy, optimizer = accelerator.prepare(policy, optimizer)
        _cut_back(work / METRICS, state.step)
        while state.step < total:
            state = _step(run, policy, optimizer, accelerator, state)
            append_line(work / METRICS, {"step": state.step, **state.metrics})
            workspace.progress(STAGE, state.step, total, state.metrics)
            stop = workspace.stop_requested()
            if stop or state.step % run.checkpoint.every == 0:
                checkpoint.save(work, state, policy, optimizer)
                checkpoint.prune([work], Keep(), state.step)
            if stop and state.step < total:
                raise stopped(STAGE, state.step, total)
        with checkpoint.tensor_write_errors(output):
            policy.save(output / MODEL)
        write_text(output / METRICS, (work / METRICS).read_text("utf-8"))
        checkpoint.write_manifest(output)


def _step(
    run: RunSpec, policy: Policy, optimizer: Optimizer, accelerator: Accelerator, state: State
) -> State:
    """One optimiser step on the token mean of the negative log-likelihood."""
    settings, step = run.warm_start, state.step + 1
    items = draw(run.mix, state.cursor, settings.batch_size, seed=settings.seed)
    tokens, mask = policy.encode_responses(_demonstrations(items), LONGEST)
    count = mask.sum()
    total = 0.0
    optimizer.zero_grad()
    size = run.compute.micro_batch_size
    for start in range(0, len(items), size):
        rows = slice(start, start + size)
        width = int(mask[rows].sum(dim=1).max())
        loss = _negative_log_likelihood(
            policy, run, items[rows], tokens[rows, :width], mask[rows, :width]
        )
        accelerator.backward(loss / count)
        total += float(loss.detach() / count)
    where = f"warm-start step {step}"
    if not math.isfinite(total):
        raise diverged("the loss", total, where)
    rate = learning_rate(settings, step, state.step / settings.steps)
    norm = apply_gradients(
        accelerator, policy, optimizer, rate, settings.max_grad_norm, where=where
    )
    return dataclasses.replace(
        state,
        step=step,
        updates=step,
        cursor=state.cursor + settings.batch_size,
        metrics={"loss": total, "grad_norm": norm, "learning_rate": rate},
    )


def _negative_log_likelihood(
    policy: Policy, run: RunSpec, items: Sequence[Item], tokens: Tensor, mask: Tensor
) -> Tensor:  # scalar, a sum over tokens
    prompts = policy.encode(items, run.prompt)
    own = torch.arange(len(items), device=tokens.device)
    output: PolicyOutput = policy(prompts, tokens, mask, own, 1.0)
    return -output.logprobs.masked_fill(~mask, 0.0).sum()


def _demonstrations(items: Sequence[Item]) -> list[str]:
    for item in items:
        if not item.demonstration:
            raise DataError(
                "the stage 'warm_start' imitates demonstrations, and this item has none",
                where=f"item {item.id}",
                remedy="add demonstrations to the dataset, or leave the stage out: stages=[rl]",
            )
    return [item.demonstration for item in items]


def _cut_back(path: Path, step: int) -> None:
    """Drop rows that an interrupted builder wrote after its last checkpoint."""
    rows, _ = read_lines(path)
    kept = [json.dumps(row) for row in rows if row["step"] <= step]
    write_text(path, "".join(f"{line}\n" for line in kept))
