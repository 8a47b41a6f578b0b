"""Rollouts of former steps in the places of groups that have nothing to teach."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vexp.experience.batch import PER_ROLLOUT, Experience
from vexp.experience.build import of_prompts
from vexp.group_filter.base import ReplayedRollouts
from vexp.policy.randomness import derive
from vexp.registry import ComponentState
from vexp.train.batch import with_outcome
from vexp.train.collect import stacked
from vexp.train.component_state import FILTER

if TYPE_CHECKING:
    from vexp.policy.policy import Policy
    from vexp.spec.run import RunSpec


def refilled(
    run: RunSpec,
    policy: Policy,
    experience: Experience | None,
    memory: Mapping[str, ComponentState],
    step: int,
) -> Experience | None:
    """The experience of a step as its filter wants it trained on; None if nothing is left.

    Where the filter replays, groups without an advantage go, and what it recalls takes their slots
    in the step's updates. All rollouts then come with their outcome advantage, and those recalled
    with the log-probs of the policy that sampled them.
    """
    if experience is None or not run.group_filter.replays:
        return experience
    size, prompts = run.rollout.responses_per_prompt, run.rl.prompts_per_step
    outcome = with_outcome(run, experience).outcome
    assert outcome is not None
    taken = torch.unique(experience.group[outcome != 0])
    fresh = torch.isin(experience.group, taken)
    used = set(taken.tolist())
    free = [slot for slot in range(prompts) if slot not in used]
    noise = np.random.Generator(np.random.Philox(key=derive(run.seed, "replay", step)))
    past = run.group_filter.recall(memory[FILTER], len(free) * size, prompts * size, noise)
    experience = dataclasses.replace(
        experience,
        outcome=outcome,
        replayed=torch.zeros_like(fresh),
        slot=experience.group,
        old_logprobs=torch.zeros_like(experience.sampling_logprobs),
    )
    parts = []
    if bool(fresh.any()):
        parts.append(experience.select(fresh.nonzero().flatten().tolist()))
    if past is not None:
        slots = torch.tensor(free).repeat_interleave(size)[: len(past)]
        parts.append(_recalled(run, policy, past, slots))
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else _joined(run, policy, parts)


def remembered(
    run: RunSpec, experience: Experience | None, memory: Mapping[str, ComponentState]
) -> dict[str, ComponentState]:
    """All memories after a step that trained on `experience`."""
    if experience is None or FILTER not in memory:
        return dict(memory)
    return {**memory, FILTER: run.group_filter.remember(memory[FILTER], experience)}


def _recalled(run: RunSpec, policy: Policy, past: ReplayedRollouts, slots: Tensor) -> Experience:
    """Rollouts of former steps as an experience; those of one prompt are a group."""
    device = policy.device
    ordinals, group = torch.unique(past.ordinals, return_inverse=True)
    items = [run.mix.draw(ordinal, seed=run.seed) for ordinal in ordinals.tolist()]
    group, mask, logprobs = group.to(device), past.mask.to(device), past.logprobs.to(device)
    described = of_prompts(run, policy, items, policy.encode(items, run.prompt))
    has_image = torch.tensor([item.image is not None for item in items], device=device)
    return Experience(
        **described,
        ordinals=tuple(ordinals.tolist()),
        group=group,
        tokens=past.tokens.to(device).masked_fill(~mask, policy.pad_id),
        mask=mask,
        sampling_logprobs=logprobs,
        old_logprobs=logprobs,
        rewards=past.rewards.to(device),
        accuracies=past.accuracies.to(device),
        has_image=has_image[group],
        place=past.places.to(device),
        outcome=past.outcome.to(device),
        replayed=torch.ones(len(past), dtype=torch.bool, device=device),
        slot=slots.to(device),
    )


def _joined(run: RunSpec, policy: Policy, parts: list[Experience]) -> Experience:
    """Experiences of which nothing has been observed yet, one after the other."""

    def all_of(name: str) -> list[Any]:
        return [getattr(part, name) for part in parts]

    items = [item for found in all_of("items") for item in found]
    starts = itertools.accumulate((len(prompts) for prompts in all_of("prompts")), initial=0)
    groups = [group + start for group, start in zip(all_of("group"), starts, strict=False)]
    rollouts: dict[str, Any] = {name: torch.cat(all_of(name)) for name in PER_ROLLOUT}
    return Experience(
        **of_prompts(run, policy, items, policy.encode(items, run.prompt)),
        **rollouts,
        ordinals=tuple(ordinal for found in all_of("ordinals") for ordinal in found),
        group=torch.cat(groups),
        tokens=stacked(all_of("tokens"), policy.pad_id),
        mask=stacked(all_of("mask"), False),
        sampling_logprobs=stacked(all_of("sampling_logprobs"), 0.0),
        old_logprobs=stacked(all_of("old_logprobs"), 0.0),
    )
