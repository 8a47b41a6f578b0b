"""The supervised stages: imitate demonstrations. Each is shared by all runs that agree on it."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vexp.auxiliary.base import Auxiliary
from vexp.dataset.base import Item
from vexp.errors import CheckpointError, DataError
from vexp.experience.batch import Experience, even_micro_batches
from vexp.experience.build import of_prompts
from vexp.files import append_line, read_lines, write_text
from vexp.policy import parallel, sharding
from vexp.spec.identity import stage_key
from vexp.spec.run import Anchor, Keep, Supervised
from vexp.train import auxiliary, checkpoint
from vexp.train.checkpoint import State
from vexp.train.collect import draw
from vexp.train.device import arithmetic, make_accelerator
from vexp.train.learner import load_trained
from vexp.train.manifest import MODEL, damage, write_manifest
from vexp.train.metrics import of_auxiliary
from vexp.train.optimizer import apply_gradients, diverged, learning_rate, make_optimizer
from vexp.train.workspace import BuildStage, stopped

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.optim import Optimizer

    from vexp.policy.policy import Policy
    from vexp.spec.run import RunSpec
    from vexp.train.workspace import Workspace

METRICS = "metrics.jsonl"
LONGEST = 32768  # tokens of a demonstration; longer ones are cut


def supervised(run: RunSpec, workspace: Workspace, stage: str, initial: Path | None) -> Path:
    """The model folder after a stage; built here if no run has built it yet.

    `initial` is the model that the stage starts from; None: the backbone as it is.

    Raises:
        DataError: if an item has no demonstration.
        CheckpointError: if the stage's folder was damaged after it was built.
    """
    build = functools.partial(_build, run, workspace, stage, initial)
    folder = _built(workspace, stage, stage_key(run, stage), build)
    wrong = damage(folder, remembered=True)
    if wrong is not None:
        raise CheckpointError(
            f"the finished stage {stage!r} is damaged: {wrong}",
            where=str(folder),
            remedy="delete this folder; the stage is then built again",
        )
    return folder / MODEL


def _built(workspace: Workspace, stage: str, key: str, build: BuildStage) -> Path:
    """The folder of a stage. The first process claims it, and all build it together."""
    if not parallel.is_rank_zero():
        while "folder" not in (said := parallel.broadcast_recv()):
            build(Path(said["work"]), Path(said["output"]))
        return Path(said["folder"])

    def together(work: Path, output: Path) -> None:
        parallel.broadcast_send({"work": str(work.absolute()), "output": str(output.absolute())})
        build(work, output)

    folder = workspace.build_once(stage, key, together)
    parallel.broadcast_send({"folder": str(folder.absolute())})
    return folder


def _build(
    run: RunSpec, workspace: Workspace, stage: str, initial: Path | None, work: Path, output: Path
) -> None:
    """Train in `work`, resuming what an interrupted builder left there, and put the model out."""
    settings = settings_of(run, stage)
    total = settings.steps
    with arithmetic(run.compute) as device:
        found = parallel.path_from_rank_zero(
            lambda: checkpoint.newest([work], total, workspace.note)
        )
        state = State.read(found) if found else State()
        policy = load_trained(run, initial, found, device, stage)
        sharding.shard_model(policy, run.compute)
        optimizer = make_optimizer(policy, settings, run.compute.shard)
        if found is not None and state.step < total:
            checkpoint.load_optimizer(found, policy, optimizer)
        accelerator = make_accelerator(run.compute)
        policy, optimizer = accelerator.prepare(policy, optimizer)
        if parallel.is_rank_zero():
            _cut_back(work / METRICS, state.step)
        while state.step < total:
            with sharding.updating(policy):
                state = _step(run, stage, policy, optimizer, accelerator, state)
            if parallel.is_rank_zero():
                append_line(work / METRICS, {"step": state.step, **state.metrics})
            workspace.progress(stage, state.step, total, state.metrics)
            stop = parallel.any_rank(workspace.stop_requested())
            if stop or state.step % run.checkpoint.every == 0:
                _save(work, state, policy, optimizer)
            if stop and state.step < total:
                raise stopped(stage, state.step, total)
        with sharding.unsharded(policy):
            parallel.check_agreement(policy)
            if not parallel.is_rank_zero():
                return
            with checkpoint.tensor_write_errors(output):
                policy.save(output / MODEL)
        write_text(output / METRICS, (work / METRICS).read_text("utf-8"))
        write_manifest(output)


def _save(work: Path, state: State, policy: Policy, optimizer: Optimizer) -> None:
    if parallel.is_rank_zero():
        checkpoint.save(work, state, policy, optimizer)
        checkpoint.prune([work], Keep(), state.step)
    else:
        checkpoint.assist(policy, optimizer)


def settings_of(run: RunSpec, stage: str) -> Supervised:
    """The section of a supervised stage."""
    found: Supervised = getattr(run, stage)
    return found


def losses_of(settings: Supervised) -> dict[str, Auxiliary]:
    """What a stage adds to the loss of imitation, by the name of its field."""
    return {"focus": settings.focus} if isinstance(settings, Anchor) else {}


def _step(
    run: RunSpec,
    stage: str,
    policy: Policy,
    optimizer: Optimizer,
    accelerator: Accelerator,
    state: State,
) -> State:
    """One optimiser step: the token mean of the negative log-likelihood, and what is added to it.

    The log-likelihood and the added losses come from one forward pass.
    """
    settings, step = settings_of(run, stage), state.step + 1
    terms, where = losses_of(settings), f"{stage} step {step}".replace("_", "-")
    items = draw(run.mix, state.cursor, settings.batch_size, seed=settings.seed)
    batch = imitation(run, policy, stage, items)
    every = list(range(len(items)))
    weights = auxiliary.weights(terms, batch, [every], seed=settings.seed, step=step)
    batch = dataclasses.replace(batch, auxiliary=weights)
    count = batch.mask.sum()
    sums: dict[str, float] = {"loss": 0.0} | {f"auxiliary/{name}": 0.0 for name in terms}
    optimizer.zero_grad()
    portions = even_micro_batches(every, every, run.compute.micro_batch_size, parallel.world_size())
    for rows, counted in sharding.micro_batches_of_rank(policy, portions, batch):
        part = batch.select(rows)
        output = auxiliary.forward(terms, policy, part, 1.0, seed=settings.seed, step=step)
        loss = -output.logprobs.masked_fill(~part.mask, 0.0).sum() / count
        imitated = float(loss.detach())
        loss, counts = auxiliary.added(loss, terms, output, part)
        accelerator.backward(loss if counted else 0.0 * loss)
        sharding.accumulate_gradients(policy)
        if counted:
            sums["loss"] += imitated
            sums |= {name: sums[name] + float(value) for name, value in counts.items()}
    sharding.all_reduce_gradients(policy)
    if parallel.world_size() > 1:
        found = [theirs for _, theirs in parallel.all_gather({}, sums)]
        sums = {name: math.fsum(each[name] for each in found) for name in sums}
    for name, value in sums.items():
        if not math.isfinite(value):
            raise diverged("the loss" if name == "loss" else f"the loss {name!r}", value, where)
    rate = learning_rate(settings, step, state.step / settings.steps)
    norm = apply_gradients(
        accelerator, policy, optimizer, rate, settings.max_grad_norm, where=where
    )
    row = sums | of_auxiliary(terms, batch) | {"grad_norm": norm, "learning_rate": rate}
    return dataclasses.replace(
        state, step=step, updates=step, cursor=state.cursor + settings.batch_size, metrics=row
    )


def imitation(run: RunSpec, policy: Policy, stage: str, items: Sequence[Item]) -> Experience:
    """The demonstrations as right answers to their items, one to each.

    They begin with the special tokens that the stage's own components emit.
    """
    losses: Mapping[str, Auxiliary] = losses_of(settings_of(run, stage))
    first = [token for term in losses.values() for token in term.emits]
    tokens, mask = policy.encode_responses(_demonstrations(items, stage), LONGEST, first)
    count, device = len(items), policy.device
    return Experience(
        **of_prompts(run, policy, items, policy.encode(items, run.prompt)),
        group=torch.arange(count, device=device),
        tokens=tokens,
        mask=mask,
        rewards=torch.ones(count, dtype=torch.float64, device=device),
        accuracies=torch.ones(count, dtype=torch.float64, device=device),
        sampling_logprobs=torch.zeros(mask.shape, device=device),
        has_image=torch.tensor([item.image is not None for item in items], device=device),
        place=torch.zeros(count, dtype=torch.int64, device=device),
    )


def _demonstrations(items: Sequence[Item], stage: str) -> list[str]:
    for item in items:
        if not item.demonstration:
            raise DataError(
                f"the stage {stage!r} imitates demonstrations, and this item has none",
                where=f"item {item.id}",
                remedy="add demonstrations to the dataset, or leave the stage out: stages=[rl]",
            )
    return [item.demonstration for item in items]


def _cut_back(path: Path, step: int) -> None:
    """Drop rows that an interrupted builder wrote after its last checkpoint."""
    rows, _ = read_lines(path)
    kept = [json.dumps(row) for row in rows if row["step"] <= step]
    write_text(path, "".join(f"{line}\n" for line in kept))
