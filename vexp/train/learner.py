"""The second phase of a step: from a batch with advantages to new weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim import Optimizer

from vexp.errors import ProcessLost
from vexp.experience.batch import Experience
from vexp.policy import lora, parallel, sharding
from vexp.policy.randomness import derive
from vexp.train import auxiliary, checkpoint, metrics
from vexp.train.batch import needs, update_plan
from vexp.train.device import make_accelerator
from vexp.train.manifest import MODEL
from vexp.train.objective import MISMATCH_MAX, loss_and_counts
from vexp.train.optimizer import apply_gradients, diverged, learning_rate, make_optimizer

if TYPE_CHECKING:
    from vexp.policy.policy import Policy
    from vexp.spec.run import RunSpec


@dataclass(frozen=True)
class UpdateStats:
    """What the updates of one step did; `metrics` is empty when there was nothing to learn."""

    updates: int  # optimiser steps
    metrics: dict[str, float]


@dataclass(frozen=True)
class Learner:
    """Policy, reference and optimiser of one run."""

    run: RunSpec
    policy: Policy
    # the policy as this stage began; only when something needs it
    reference: Policy | lora.Untrained | None
    optimizer: Optimizer
    accelerator: Accelerator

    def update(self, batch: Experience, *, step: int, updates: int) -> UpdateStats:
        """All optimiser steps of one rollout batch; `updates` were done before.

        Raises:
            Diverged: if loss or gradient is not finite.
        """
        done: list[dict[str, float]] = []
        seen: list[dict[str, Tensor]] = []
        settings, over = self.run.rl, (step - 1) / self.run.rl.steps
        with sharding.updating(self.policy):
            for portions in update_plan(self.run, batch) * settings.epochs_per_step:
                rate = learning_rate(settings, updates + len(done) + 1, over)
                done.append(self._one_update(batch, portions, rate, step, seen))
        self.optimizer.zero_grad()  # nothing holds gradients while responses are generated
        return UpdateStats(len(done), _summary(done) | _seen(seen))

    def _one_update(
        self,
        experience: Experience,
        portions: list[list[int]],
        rate: float,
        step: int,
        seen: list[dict[str, Tensor]],
    ) -> dict[str, float]:
        run, where = self.run, f"step {step}"
        sums: dict[str, Tensor] = {}
        here: list[dict[str, Tensor]] = []
        turns = sharding.micro_batches_of_rank(self.policy, portions, experience)
        self.optimizer.zero_grad()
        for rows, counted in turns:
            part = experience.select(rows)
            output = auxiliary.forward(
                run.auxiliary,
                self.policy,
                part,
                run.rollout.temperature,
                seed=run.seed,
                step=step,
                predictor=run.rl.row_alignment == "predictor",
            )
            loss, counts = loss_and_counts(
                run.algorithm, output, part, run.auxiliary, run.rl.correction
            )
            self.accelerator.backward(loss if counted else 0.0 * loss)
            sharding.accumulate_gradients(self.policy)
            if not counted:
                continue
            here.append(metrics.of_update(run, output, part))
            sums = {name: _with(name, sums, value) for name, value in counts.items()}
        sharding.all_reduce_gradients(self.policy)
        own = [rows for rows, counted in turns if counted]
        row = _of_all(portions, own, _numbers(sums), here, seen)
        if not math.isfinite(row["loss"]):
            raise diverged("the loss", row["loss"], where)
        limit = run.rl.max_grad_norm
        row["grad_norm"] = apply_gradients(
            self.accelerator, self.policy, self.optimizer, rate, limit, where=where
        )
        return row | {"learning_rate": rate}


def make_learner(
    run: RunSpec, initial: Path | None, last_checkpoint: Path | None, device: str
) -> Learner:
    """The learner as `last_checkpoint` left it, or from the `initial` model (None: backbone).

    The reference policy is the initial model in both cases.
    """
    policy = load_trained(run, initial, last_checkpoint, device, "rl")
    sharding.shard_model(policy, run.compute)
    reference: Policy | lora.Untrained | None = None
    if "reference_logprobs" in needs(run):
        adapted = run.backbone.lora.rank > 0
        if adapted:
            reference = lora.Untrained(policy)
        else:
            reference = load(run, initial, device, "rl").requires_grad_(False)
            sharding.shard_model(reference, run.compute)
    accelerator = make_accelerator(run.compute)
    optimizer = make_optimizer(policy, run.rl, run.compute.shard)
    if last_checkpoint is not None:
        checkpoint.load_optimizer(last_checkpoint, policy, optimizer)
    policy, optimizer = accelerator.prepare(policy, optimizer)
    return Learner(run, policy, reference, optimizer, accelerator)


def load_trained(
    run: RunSpec, initial: Path | None, last_checkpoint: Path | None, device: str, stage: str
) -> Policy:
    """The policy as `last_checkpoint` of a stage left it, or as the stage starts (None).

    With adapters it is the `initial` model that is loaded, and the adapters' weights after it.
    """
    settings = run.backbone.lora
    if not settings.rank:
        return load(run, last_checkpoint / MODEL if last_checkpoint else initial, device, stage)
    policy = load(run, initial, device, stage)
    own = run.seed if stage == "rl" else getattr(run, stage).seed
    lora.attach(policy, settings, derive(own, "lora", stage))
    if last_checkpoint is not None:
        lora.restore(policy, last_checkpoint / MODEL)
    return policy


def load(run: RunSpec, model: Path | None, device: str, stage: str) -> Policy:
    """The run's backbone with the weights in `model`, or its own (None), as a stage trains it.

    Tokens that the stage's components emit are added if they are not there yet.

    Raises:
        CheckpointError: if the checkpoint is damaged or of another architecture.
    """
    policy = run.backbone.load(
        model,
        device=device,
        precision=run.compute.precision,
        attention=run.compute.attention,
        emits=run.emits(stage),
    )
    if run.compute.gradient_checkpointing:
        policy.recompute()
    return policy


def _with(name: str, sums: Mapping[str, Tensor], value: Tensor) -> Tensor:
    """What was counted so far, and one more."""
    if name not in sums:
        return value
    return sums[name].maximum(value) if name == MISMATCH_MAX else sums[name] + value


def _over_all(name: str, values: Sequence[float]) -> float:
    return max(values) if name == MISMATCH_MAX else math.fsum(values)


def _numbers(sums: Mapping[str, Tensor]) -> dict[str, float]:
    """The sums as numbers, brought from the device at once."""
    if not sums:
        return {}
    values = torch.stack([value.double() for value in sums.values()]).tolist()
    return dict(zip(sums, values, strict=True))


def _of_all(
    portions: Sequence[Sequence[int]],
    own: Sequence[Sequence[int]],
    row: dict[str, float],
    here: list[dict[str, Tensor]],
    seen: list[dict[str, Tensor]],
) -> dict[str, float]:
    """The sums of an update over all processes; what they have seen of it is put to `seen`.

    No sample may be lost on the way, and none may count twice.
    """
    if parallel.world_size() == 1:
        seen += here
        return row
    names = here[0] if here else {}
    joined = {name: torch.cat([part[name] for part in here]) for name in names}
    found = parallel.all_gather(joined, {"row": row, "rows": [list(rows) for rows in own]})
    done = sorted(index for _, plain in found for rows in plain["rows"] for index in rows)
    if done != sorted(index for rows in portions for index in rows):
        raise ProcessLost("the processes of this run do not agree on what to train on")
    seen += [dict(tensors) for tensors, plain in found if plain["rows"]]
    rows = [plain["row"] for _, plain in found if plain["row"]]
    return {name: _over_all(name, [each[name] for each in rows]) for name in rows[0]}


def _seen(updates: list[dict[str, Tensor]]) -> dict[str, float]:
    """Means over the responses of all updates of what auxiliary losses saw."""
    names = updates[0] if updates else {}
    return metrics.means({name: torch.cat([part[name] for part in updates]) for name in names})


def _summary(updates: list[dict[str, float]]) -> dict[str, float]:
    """Means over tokens for what is counted per token, means over updates for the rest."""
    if not updates:
        return {}
    tokens = sum(update["tokens"] for update in updates)
    row = {"loss": math.fsum(update["loss"] for update in updates) / len(updates)}
    for name in [name for name in updates[0] if name.startswith("auxiliary/")]:
        row[name] = math.fsum(update[name] for update in updates) / len(updates)
    for name in ("clip_low", "clip_high", "kl_sampling", "kl_reference"):
        if name in updates[0] or name.startswith("clip"):
            row[name] = math.fsum(update.get(name, 0.0) for update in updates) / tokens
    row |= _mismatch(updates, tokens)
    row["grad_norm"] = math.fsum(update["grad_norm"] for update in updates) / len(updates)
    return row | {"learning_rate": updates[-1]["learning_rate"]}


def _mismatch(updates: list[dict[str, float]], tokens: float) -> dict[str, float]:
    """Engine against trainer: mean and largest difference in nats of a token's log-prob, and the
    effective sample size (Kish) of importance weights, as a share of the tokens."""
    weight, square = (
        math.fsum(update[name] for update in updates)
        for name in ("mismatch_weight", "mismatch_square")
    )
    return {
        "mismatch/mean": math.fsum(update["mismatch"] for update in updates) / tokens,
        "mismatch/max": max(update[MISMATCH_MAX] for update in updates),
        "mismatch/ess": weight**2 / (tokens * square) if square else 1.0,
    }
