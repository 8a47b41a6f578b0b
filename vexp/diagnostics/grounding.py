"""What a batch of responses shows about seeing, by the names under which it is reported.

Every value is [rollout] in double precision, NaN where it is not defined. Nothing here runs a
forward pass: what the experience does not hold is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vexp.diagnostics import measures
from vexp.experience.evidence import layout_masks, layout_target
from vexp.probe.layout import count

if TYPE_CHECKING:
    from vexp.distortion.base import Distortion
    from vexp.experience.batch import Experience, ImageAttention
    from vexp.target.base import Target

Values = dict[str, Tensor]


def evidence(pooled: Tensor, batch: Experience, target: Target, kappa: float = 1.0) -> Values:
    """How attention `pooled` [rollout, image token] over response tokens relates to the boxes."""
    boxes, targets, counts = (
        tensor.to(pooled.device)[batch.group] for tensor in _of_prompts(batch, target, pooled)
    )
    union = boxes.any(dim=1)
    found = {
        "evidence_mass": measures.evidence_mass(pooled, union),
        "pointing": measures.pointing(pooled, union),
        "coverage": measures.coverage(pooled, boxes, counts, kappa),
        "coverage_2": measures.coverage(pooled, boxes, counts, 2 * kappa),
        "attention_kl": measures.target_divergence(pooled, targets),
        "evidence_area": union.sum(dim=1) / counts.double(),
    }
    unknown = ~union.any(dim=1)
    return {name: value.masked_fill(unknown, measures.NAN) for name, value in found.items()}


def visual(found: ImageAttention, batch: Experience) -> Values:
    """Where all attention goes, when it is on the image, and how much of that is on evidence."""
    mask = batch.mask & (found.image_tokens > 0).unsqueeze(1)
    image = found.image.double()
    values = {"image": measures.token_mean(image, mask).clamp(max=1.0)}
    if found.response is not None:
        response = found.response.double()
        values["query"] = measures.token_mean((1 - image - response).clamp(min=0.0), mask)
        values["response"] = measures.token_mean(response, mask).clamp(max=1.0)
    values["late_early"] = measures.late_over_early(image, mask)
    cells = (found.image, found.evidence, found.image_tokens, found.evidence_tokens)
    values["tas"] = measures.target_attention(*cells, mask)
    if batch.entropy is not None:
        chosen = measures.top_share(batch.entropy, mask, measures.KEY_TOKENS)
        values["attention_ratio"] = measures.attention_ratio(*cells, chosen)
    if batch.similarity is not None:
        values["focus_correlation"] = measures.pearson(batch.similarity, image, mask)
    return values


def curves(found: ImageAttention, batch: Experience, points: int) -> Values:
    """Where attention goes in each of `points` parts of a response, and of its tokens by entropy.

    All are shares of all attention; `evidence` is what lies on the boxes.
    """
    mask = batch.mask & (found.image_tokens > 0).unsqueeze(1)
    boxed = mask & (found.evidence_tokens > 0).unsqueeze(1)
    image = found.image.double().clamp(max=1.0)
    places = {"image": (image, mask), "evidence": (found.evidence.double(), boxed)}
    values: Values = {}
    if batch.entropy is not None:
        for name, (share, tokens) in places.items():
            ranked = measures.over_rank(share, batch.entropy, tokens, points)
            values |= _numbered(f"{name}/entropy", ranked)
    if found.response is not None:
        response = found.response.double()
        places["query"] = (1 - image - response).clamp(min=0.0), mask
        places["response"] = response.clamp(max=1.0), mask
    for name, (share, tokens) in places.items():
        values |= _numbered(f"{name}/at", measures.over_position(share, tokens, points))
    return values


def _numbered(name: str, values: Tensor) -> Values:  # of [rollout, point]
    return {f"{name}_{n}": value for n, value in enumerate(values.unbind(1), start=1)}


def focused(batch: Experience) -> Values:
    """Shares of each response that are focused tokens of its second and of its first half."""
    if batch.similarity is None:
        return {}
    mask = batch.mask if batch.has_image is None else batch.mask & batch.has_image.unsqueeze(1)
    late, early = measures.focused_late_and_early(batch.similarity, mask)
    return {"focused_late": late, "focused_early": early}


def image_effect(batch: Experience, distortion: Distortion) -> Tensor | None:  # [rollout, token]
    """p(o_t | image) - p(o_t | distorted image), by which tokens are grounded; None if unknown."""
    known = batch.counterfactual.get(distortion)
    if known is None or batch.old_logprobs is None:
        return None
    return batch.old_logprobs.double().exp() - known.logprobs.double().exp()


def split(values: Values, names: tuple[str, ...], accuracies: Tensor | None) -> Values:
    """The values, and those called `names` of right and of wrong responses alone as well."""
    found = dict(values)
    if accuracies is None:
        return found
    right = accuracies.eq(1)
    for name in names:
        if name in values:
            found[f"{name}/correct"] = values[name].masked_fill(~right, measures.NAN)
            found[f"{name}/wrong"] = values[name].masked_fill(right, measures.NAN)
    return found


def _of_prompts(batch: Experience, target: Target, pooled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes [prompt, box, image token], targets [prompt, image token], image tokens [prompt]."""
    evidence, layouts = batch.evidence or (), batch.layouts or ()
    width, most = pooled.shape[1], max(map(len, evidence), default=0)
    boxes = torch.zeros(len(layouts), max(1, most), width, dtype=torch.bool)
    targets = torch.zeros(len(layouts), width)
    counts = torch.tensor([count(layout) for layout in layouts], dtype=torch.int64)
    for index, (own, layout) in enumerate(zip(evidence, layouts, strict=True)):
        if own and counts[index]:
            boxes[index, : len(own), : counts[index]] = layout_masks(own, layout)
            targets[index, : counts[index]] = layout_target(target, own, layout)
    return boxes, targets, counts
