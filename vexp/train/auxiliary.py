"""Auxiliary losses in an update: their weights, the one forward pass for all, and their sum."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vexp.auxiliary.base import Auxiliary
from vexp.errors import VexpError
from vexp.experience import batch as experiences
from vexp.experience.batch import Experience
from vexp.experience.observe import distorted
from vexp.policy.policy import Reading
from vexp.policy.randomness import uniforms
from vexp.probe.attention import Probe

if TYPE_CHECKING:
    from vexp.policy.policy import Policy, PolicyOutput


def weights(
    terms: Mapping[str, Auxiliary],
    experience: Experience,
    mini_batches: Sequence[Sequence[int]],
    *,
    seed: int,
    step: int,
) -> dict[str, Tensor]:  # [rollout, token] by name
    """Each loss's weights, from all responses of the update that a row belongs to."""
    found: dict[str, Tensor] = {}
    for name, term in terms.items():
        draw = _uniforms(experience, f"auxiliary/{name}", seed, step)
        whole = torch.zeros(experience.mask.shape, device=experience.mask.device)
        for rows in mini_batches:
            part = experience.select(rows)
            width = part.mask.shape[1]
            own = term.weights(part, draw[rows, :width]).masked_fill(~part.mask, 0.0)
            whole[rows, :width] = own
        found[name] = whole
    return found


def forward(
    terms: Mapping[str, Auxiliary],
    policy: Policy,
    part: Experience,
    temperature: float,
    *,
    seed: int,
    step: int,
    predictor: bool = False,
) -> PolicyOutput:
    """The one forward pass of an update, with what the losses need a gradient through.

    With `predictor`, attention is that of the position before a token (`rl.row_alignment`).
    """
    readers = {name: term for name, term in terms.items() if "attention" in term.live}
    layers = {
        term.layer.index(part.layers)  # type: ignore[attr-defined]
        for term in readers.values()
    }
    if not layers:
        output = experiences.forward(policy, part, temperature)
    else:
        wanted = torch.stack([part.auxiliary[name] != 0 for name in readers]).any(dim=0)
        count = max(1, int(wanted.sum(dim=1).max()))
        rows = wanted.int().argsort(dim=1, descending=True, stable=True)[:, :count]
        reading = Reading(probe=Probe(layers, rows=rows), predictor=predictor)
        output = experiences.forward(policy, part, temperature, reading)
        if not all(found.logits.requires_grad for found in output.attention.values()):
            raise VexpError(
                "attention carries no gradient, so a loss on it would train nothing",
                where="auxiliary",
                remedy="gradient checkpointing has to be the non-reentrant kind",
            )
    again = {
        term.distortion  # type: ignore[attr-defined]
        for term in terms.values()
        if "counterfactual_logprobs" in term.live
    }
    found = {
        distortion: experiences.forward(
            policy, distorted(part, policy, distortion, seed, step), temperature
        ).logprobs
        for distortion in again
    }
    return dataclasses.replace(output, counterfactual=found) if found else output


def added(
    loss: Tensor, terms: Mapping[str, Auxiliary], output: PolicyOutput, batch: Experience
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss with this batch's share of all terms, and those shares without their factors."""
    counts: dict[str, Tensor] = {}
    for name, term in terms.items():
        own = (batch.auxiliary[name] * term.token_loss(output, batch)).sum()
        counts[f"auxiliary/{name}"] = own.detach()
        loss = loss + term.coef * own
    return loss, counts


def _uniforms(experience: Experience, purpose: str, seed: int, step: int) -> Tensor:
    if experience.items is None or experience.place is None:
        raise ValueError("an auxiliary loss needs the items and places of an experience")
    ids = [experience.items[group].id for group in experience.group.tolist()]
    width = experience.mask.shape[1]
    numbers = uniforms(seed, purpose, step, ids, experience.place.tolist(), width)
    return torch.from_numpy(numbers).to(experience.mask.device)
