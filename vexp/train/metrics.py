"""The row of metrics that a step leaves behind; numbers only, no times, no NaN."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from vexp.algorithm.base import equal_rewards
from vexp.auxiliary.base import Auxiliary
from vexp.errors import VexpError, suggest
from vexp.reward.base import ObservedReward
from vexp.spec import Keep, RunSpec
from vexp.train.collect import Collected
from vexp.train.experience import Experience
from vexp.train.optimizer import diverged
from vexp.train.rewards import mean

_COUNTED = ("timeout", "crashed", "bad_gold", "no_answer")


def of_rollouts(collected: Collected, group_size: int) -> dict[str, float]:
    """What was generated, over all responses of the step, whether or not they train the policy."""
    batches = collected.batches
    rewards = [value for batch in batches for value in batch.rewards.total]
    groups = torch.arange(len(rewards) // group_size).repeat_interleave(group_size)
    same = equal_rewards(torch.tensor(rewards, dtype=torch.float64), groups)
    row: dict[str, float] = {"reward": mean(rewards)}
    for term in batches[0].rewards.terms:
        values = [value for batch in batches for value in batch.rewards.terms[term]]
        row[f"reward/{term}"] = mean(values)
    row |= {
        "accuracy": mean([value for batch in batches for value in batch.rewards.accuracies]),
        "format": mean([value for batch in batches for value in batch.well_formed]),
        "response_length": mean([value for batch in batches for value in batch.lengths]),
        "truncation_rate": mean([not value for batch in batches for value in batch.finished]),
        "frac_zero_std": mean(same.tolist()),
        "groups_generated": len(same),
        "groups_kept": collected.kept,
        "batches": len(batches),
    }
    second = [batch.rethought for batch in batches if batch.rethought is not None]
    if second:
        row["rethink/tried"] = sum(found.tried for found in second)
        row["rethink/kept"] = sum(found.kept for found in second)
    for status in _COUNTED:
        row[f"verifier/{status}"] = sum(batch.rewards.statuses[status] for batch in batches)
    return row


def of_experience(run: RunSpec, experience: Experience) -> dict[str, float]:
    """What the experience pass has seen of the groups that train the policy."""
    row = {}
    if experience.entropy is not None:
        row["entropy"] = float(experience.entropy.sum() / experience.mask.sum().clamp(min=1))
    if experience.replayed is not None:
        row["replayed"] = int(experience.replayed.sum())
    for name, term in run.reward.terms.items():
        if isinstance(term, ObservedReward):
            row[f"reward/{name}"] = float(term.observed(experience).mean())
    for layer, found in sorted(experience.attention.items()):
        known = (found.evidence_tokens > 0).unsqueeze(1) & experience.mask
        if bool(known.any()):
            row[f"attention/{layer}/image"] = float(found.image[known].mean())
            row[f"attention/{layer}/evidence_share"] = float(found.share[known].mean())
    return row | of_auxiliary(run.auxiliary, experience) | run.credit.metrics(experience)


def of_auxiliary(terms: Mapping[str, Auxiliary], experience: Experience) -> dict[str, float]:
    """Which share of the responses each auxiliary loss acts on, and what else it counts."""
    row = {}
    for name, weights in experience.auxiliary.items():
        row[f"auxiliary/{name}/coverage"] = float((weights != 0).any(dim=1).float().mean())
        found = terms[name].metrics(experience)
        row |= {f"auxiliary/{name}/{what}": value for what, value in found.items()}
    return row


def checked(row: dict[str, float], keep: Keep, step: int) -> dict[str, float]:
    """The row, once every number in it is one and the metric that ranks checkpoints is there.

    Raises:
        Diverged: if a value is not finite.
        VexpError: if `checkpoint.keep.by` names no metric.
    """
    for name, value in row.items():
        if not math.isfinite(value):
            raise diverged(f"the metric {name!r}", value, f"step {step}")
    if keep.best and keep.by not in row and "grad_norm" in row:
        raise VexpError(
            f"there is no metric {keep.by!r} to rank checkpoints by",
            where="checkpoint.keep.by",
            accepted=suggest(keep.by, row, noun="metrics"),
        )
    return row
