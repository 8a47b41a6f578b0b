"""Experience from prompts and responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from vexp.experience.batch import Experience
from vexp.experience.evidence import relative_boxes

if TYPE_CHECKING:
    from vexp.dataset.base import Item
    from vexp.engine.base import Generated
    from vexp.policy.policy import Policy
    from vexp.policy.prompts import PromptBatch
    from vexp.spec.run import RunSpec


def answers(
    run: RunSpec,
    policy: Policy,
    items: Sequence[Item],
    prompts: PromptBatch,
    generated: Generated,
    rewards: Sequence[float],
) -> Experience:
    """Responses to held-out items, groups of equal size, as the experience pass takes them."""
    device = policy.device
    group = torch.arange(len(items), device=device)
    size = len(generated.mask) // max(1, len(items))
    has_image = torch.tensor([item.image is not None for item in items], device=device)
    return Experience(
        **of_prompts(run, policy, items, prompts),
        group=group.repeat_interleave(size),
        tokens=generated.tokens,
        mask=generated.mask,
        rewards=torch.tensor(rewards, dtype=torch.float64, device=device),
        sampling_logprobs=generated.logprobs,
        has_image=has_image.repeat_interleave(size),
        place=torch.arange(size, device=device).repeat(len(items)),
    )


def of_prompts(
    run: RunSpec, policy: Policy, items: Sequence[Item], prompts: PromptBatch
) -> dict[str, Any]:
    """Fields of an `Experience` about its prompts, one entry per prompt, made from `items`."""
    boxes = [relative_boxes(item.boxes, item.image.size)[0] if item.image else () for item in items]
    return {
        "prompts": prompts,
        "items": tuple(items),
        "prompt_of": run.prompt,
        "boxes": tuple(item.boxes for item in items),
        "evidence": tuple(tuple(each) for each in boxes),
        "layouts": prompts.layouts,
        "layers": policy.layers,
        "emitted": policy.emits,
    }
