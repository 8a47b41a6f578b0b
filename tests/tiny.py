"""A tiny policy and items for it; the policy is built once per process and must not be changed."""

from __future__ import annotations

import functools

import numpy as np
import torch
from PIL import Image

from vexp.backbone.tiny_qwen2_5_vl import TinyQwen25VL
from vexp.dataset.base import Item
from vexp.policy.policy import Policy
from vexp.policy.prompts import PromptBatch
from vexp.spec.run import Prompt

SMALL = TinyQwen25VL(
    layers=3,
    hidden_size=64,
    heads=4,
    kv_heads=2,
    intermediate_size=96,
    vision_hidden_size=32,
    vision_heads=2,
)
PROMPT = Prompt(instruction="Think inside <think> </think>, then answer in \\boxed{}.")


@functools.cache
def policy(attention: str = "auto") -> Policy:
    return SMALL.load(attention=attention)


def fresh_policy(attention: str = "auto", **options) -> Policy:
    return SMALL.load(attention=attention, **options)


def item(number: int, *, size: tuple[int, int] | None = (56, 56), words: int = 0) -> Item:
    """An item whose image is noise; `words` lengthens the question, `size=None` leaves it out."""
    image = None
    if size is not None:
        noise = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3))
        image = Image.fromarray(noise.astype(np.uint8))
    question = "What is the sum of the red digit and the blue digit?" + " yes" * words
    return Item(id=f"test/{number:06d}", question=question, answer="1", image=image)


def ragged_items() -> list[Item]:
    """Prompts of four lengths, with images of different sizes and one without any."""
    return [
        item(0),
        item(1, size=(84, 112), words=3),
        item(2, size=None, words=1),
        item(3, size=(28, 28), words=7),
    ]


def responses(rows: int, length: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random response tokens of lengths 1 to `length` that any policy here may have sampled."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, length + 1, (rows,), generator=generator)
    lengths[0], lengths[-1] = length, 1
    mask = torch.arange(length) < lengths.unsqueeze(1)
    tokens = torch.randint(0, 400, (rows, length), generator=generator)
    tokens[torch.arange(rows), lengths - 1] = policy().eos_id
    return tokens.masked_fill(~mask, policy().pad_id), mask


def plain_logits(
    owner: Policy, batch: PromptBatch, tokens: torch.Tensor, mask: torch.Tensor, index: list[int]
) -> list[torch.Tensor]:
    """Logits that predict each response's tokens, one transformers call per response, no cache."""
    found = []
    for row, prompt in enumerate(index):
        alone = batch.select([prompt])
        length = int(mask[row].sum())
        ids = torch.cat([alone.input_ids[0], tokens[row, :length]])[None]
        image = (ids == owner.model.config.image_token_id).int()
        owner.model.model.rope_deltas = None
        output = owner.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=alone.pixel_values,
            image_grid_thw=alone.image_grid_thw,
            mm_token_type_ids=image,
            use_cache=False,
        )
        found.append(output.logits[0, -length - 1 : -1])
    return found
