"""Which image tokens each token of a response attends to, for pictures of single responses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vexp.experience.batch import Experience, forward
from vexp.policy.policy import Reading
from vexp.probe.attention import ImageLogits, Probe
from vexp.probe.layout import count

if TYPE_CHECKING:
    from vexp.policy.policy import Policy


@torch.no_grad()
def attention_map(batch: Experience, policy: Policy, row: int, layer: int) -> Tensor:
    """One response's attention on the image alone: [token, image token], rows add up to 1.

    Softmax over the image tokens per head, then the mean over heads, as `ImageAttention.share` is
    made of. Without an image there are no columns. One forward pass of one response.
    """
    alone = batch.select([row])
    found: list[Tensor] = []

    def take(_: int, piece: ImageLogits) -> None:
        found.append(piece.logits[0].softmax(-1).mean(0).cpu())

    forward(policy, alone, 1.0, Reading(probe=Probe((layer,), consume=take)))
    columns = count(alone.layouts[0]) if alone.layouts else 0
    length = int(alone.mask.sum())
    return torch.cat(found)[:length, :columns]
