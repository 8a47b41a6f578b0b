"""The row of metrics that a step leaves behind; numbers only, no times, no NaN."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from vexp.algorithm.base import equal_rewards
from vexp.auxiliary.base import Auxiliary
from vexp.diagnostics import grounding
from vexp.diagnostics.measures import grounded, mean_of_defined
from vexp.errors import VexpError, suggest
from vexp.experience.batch import Experience
from vexp.experience.evidence import relative_boxes
from vexp.registry import REGISTRY
from vexp.reward._total import mean
from vexp.reward.base import ObservedReward
from vexp.spec.run import Keep, RunSpec
from vexp.target.base import Target
from vexp.train.collect import Collected
from vexp.train.optimizer import diverged

if TYPE_CHECKING:
    from vexp.policy.policy import PolicyOutput

_COUNTED = ("timeout", "crashed", "bad_gold", "unreadable", "no_answer")


def of_step(run: RunSpec, collected: Collected, experience: Experience | None) -> dict[str, float]:
    """Metrics of a step before its updates."""
    row = of_rollouts(collected, run.rollout.responses_per_prompt)
    if experience is None:
        return row
    return with_observed(run, row | of_experience(run, experience), experience)


def of_rollouts(collected: Collected, group_size: int) -> dict[str, float]:
    """What was generated, over all responses of the step, whether or not they train the policy."""
    batches = collected.batches
    rewards = [value for batch in batches for value in batch.rewards.total]
    groups = torch.arange(len(rewards) // group_size).repeat_interleave(group_size)
    same = equal_rewards(torch.tensor(rewards, dtype=torch.float64), groups)
    accuracies = [value for batch in batches for value in batch.rewards.accuracies]
    solved = [mean(accuracies[i : i + group_size]) for i in range(0, len(accuracies), group_size)]
    row: dict[str, float] = {"reward": mean(rewards)}
    for term in batches[0].rewards.terms:
        values = [value for batch in batches for value in batch.rewards.terms[term]]
        row[f"reward/{term}"] = mean(values)
    row |= {
        "accuracy": mean(accuracies),
        "format": mean([value for batch in batches for value in batch.well_formed]),
        "response_length": mean([value for batch in batches for value in batch.lengths]),
        "truncation_rate": mean([not value for batch in batches for value in batch.finished]),
        "frac_zero_std": mean(same.tolist()),
        "groups_generated": len(same),
        "groups_kept": collected.kept,
        "groups_all_wrong": solved.count(0.0),
        "groups_all_right": solved.count(1.0),
        "batches": len(batches),
    }
    dropped = sum(
        relative_boxes(item.boxes, item.image.size)[1]
        for batch in batches
        for item in batch.items
        if item.image is not None
    )
    if dropped:
        row["boxes_dropped"] = dropped
    second = [batch.rethought for batch in batches if batch.rethought is not None]
    if second:
        row["rethink/tried"] = sum(found.tried for found in second)
        row["rethink/kept"] = sum(found.kept for found in second)
    for status in _COUNTED:
        row[f"verifier/{status}"] = sum(batch.rewards.statuses[status] for batch in batches)
    return row


def nothing_kept(run: RunSpec, row: Mapping[str, float]) -> str:
    """What to tell of a step in which no group passed the filter; empty where one did."""
    if row["groups_kept"]:
        return ""
    groups, batches = int(row["groups_generated"]), int(row["batches"])
    text = (
        f"none of {groups} groups in {batches} {'batch' if batches == 1 else 'batches'} passed "
        f"group_filter={run.group_filter.name} ({int(row['groups_all_wrong'])} all wrong, "
        f"{int(row['groups_all_right'])} all right): nothing is learned"
    )
    if silent := int(row["verifier/no_answer"]):
        responses = groups * run.rollout.responses_per_prompt
        text += f"; {silent} of {responses} responses have no answer in a form that is read"
    return text


def of_experience(run: RunSpec, experience: Experience) -> dict[str, float]:
    """What the experience pass has seen of the groups that train the policy."""
    row = {}
    if experience.entropy is not None:
        row["entropy"] = float(experience.entropy.sum() / experience.mask.sum().clamp(min=1))
    row |= _grounded(run, experience)
    if experience.replayed is not None:
        row["replayed"] = int(experience.replayed.sum())
    for name, term in run.reward.terms.items():
        if isinstance(term, ObservedReward):
            row[f"reward/{name}"] = float(term.observed(experience).mean())
    for layer, found in sorted(experience.attention.items()):
        values = grounding.visual(found, experience)
        if experience.evidence is not None:
            values |= grounding.evidence(found.pooled, experience, _target(run))
        values = grounding.split(values, ("late_early",), experience.accuracies)
        row |= means({f"attention/{layer}/{name}": value for name, value in values.items()})
    row |= _focused(experience)
    return row | of_auxiliary(run.auxiliary, experience) | run.credit.metrics(experience)


def with_observed(
    run: RunSpec, row: Mapping[str, float], experience: Experience
) -> dict[str, float]:
    """The row of `of_rollouts` and `of_experience` with the terms that only the latter knows.

    They are known for the groups that train, with `experience.rewards` as learning saw them. So
    `reward` is the weighted sum of all terms' means, as they stand in the row, and `frac_zero_std`
    judges the groups that train by all terms and the others by what is known of them.
    """
    terms = {n: term for n, term in run.reward.terms.items() if isinstance(term, ObservedReward)}
    if not terms:
        return dict(row)
    new = torch.ones_like(experience.group, dtype=torch.bool)
    if experience.replayed is not None:
        new = ~experience.replayed
    _, groups = torch.unique(experience.group[new], return_inverse=True)
    rewards = experience.rewards[new]
    texts = rewards
    for term in terms.values():
        texts = texts - term.weight * term.observed(experience).to(rewards.dtype)[new]
    more = int(equal_rewards(rewards, groups).sum()) - int(equal_rewards(texts, groups).sum())
    gain = math.fsum(term.weight * row[f"reward/{name}"] for name, term in terms.items())
    equal = row["frac_zero_std"] + more / row["groups_generated"]
    return {**row, "reward": row["reward"] + gain, "frac_zero_std": max(0.0, equal)}


def of_auxiliary(terms: Mapping[str, Auxiliary], experience: Experience) -> dict[str, float]:
    """Which share of the responses each auxiliary loss acts on, and what else it counts."""
    row = {}
    for name, weights in experience.auxiliary.items():
        row[f"auxiliary/{name}/gate_coverage"] = float((weights != 0).any(dim=1).float().mean())
        found = terms[name].metrics(experience)
        row |= {f"auxiliary/{name}/{what}": value for what, value in found.items()}
    return row


def of_update(run: RunSpec, output: PolicyOutput, part: Experience) -> dict[str, Tensor]:
    """What auxiliary losses on attention see in a forward pass of an update; [rollout] each.

    Over the responses and tokens that the loss supervises; all others are NaN.
    """
    found: dict[str, Tensor] = {}
    for name, term in run.auxiliary.items():
        layer = getattr(term, "layer", None)
        if "attention" not in term.live or layer is None or part.evidence is None:
            continue
        weights = part.auxiliary[name]
        if output.rows is not None:
            weights = weights.gather(1, output.rows)
        chosen = (weights != 0).unsqueeze(-1)  # [rollout, row, 1]
        logits = output.attention[layer.index(part.layers)].logits.detach()
        attended = logits.softmax(-1).nan_to_num(0.0).mean(dim=1)  # [rollout, row, image token]
        pooled = (attended * chosen).sum(dim=1)
        values = grounding.evidence(pooled, part, _target(run))
        silent = ~chosen.any(dim=1).squeeze(-1)
        for measure, value in values.items():
            found[f"auxiliary/{name}/{measure}"] = value.masked_fill(silent, float("nan"))
    return found


def means(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Mean of each over the responses that have it; left out where none has."""
    found = {name: mean_of_defined(value) for name, value in values.items()}
    return {name: value for name, value in found.items() if value is not None}


def _grounded(run: RunSpec, experience: Experience) -> dict[str, float]:
    """Entropy of the tokens that the image makes likelier, and of the others, of the whole step."""
    known = list(experience.counterfactual)
    if not known:
        return {}
    own = getattr(run.credit, "distortion", None)
    score = grounding.image_effect(experience, own if own in known else known[0])
    if score is None:
        return {}
    mask = experience.mask.flatten().unsqueeze(0)
    score = score.flatten().unsqueeze(0)
    nothing = torch.full_like(score, float("nan"))
    entropy = nothing if experience.entropy is None else experience.entropy.view_as(score)
    found = grounded(entropy, score, mask)
    return means(
        {
            "grounded_share": found.share,
            "entropy/grounded": found.entropy,
            "entropy/other": found.other_entropy,
            "entropy/gap": found.gap,
        }
    )


def _focused(experience: Experience) -> dict[str, float]:
    """VGPO's released late/early ratio: of the mean shares of the responses."""
    shares = grounding.split(
        grounding.focused(experience), ("focused_late", "focused_early"), experience.accuracies
    )
    found = {}
    for part in ("", "/correct", "/wrong"):
        if f"focused_early{part}" in shares:
            early = float(shares[f"focused_early{part}"].nansum())
            if early:
                late = float(shares[f"focused_late{part}"].nansum())
                found[f"late_early_focus{part}"] = late / early
    return found


def _target(run: RunSpec) -> Target:
    """What attention is compared with: the target that the run trains towards, or else EASE's."""
    own = (c for path, c in run.components() if not path.startswith("evaluator."))
    trained = next((c for c in own if isinstance(c, Target)), None)
    return trained or cast("Target", REGISTRY.get("target", "gaussian_mixture")())


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
