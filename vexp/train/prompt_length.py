"""How long prompts get, and whether that is more than there is room for; asked before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vexp.errors import ConfigError, Problem

if TYPE_CHECKING:
    from vexp.dataset.base import Split
    from vexp.policy.prompt_encoder import PromptEncoder
    from vexp.spec.run import RunSpec

LOOKED_AT = 16  # prompts of each dataset that are made: the longest by text and by image
AT_ONCE = 4  # prompts encoded together; their images may be large


@dataclass(frozen=True)
class PromptSize:
    """A prompt's length in tokens, and how many of them are its image's."""

    id: str
    tokens: int
    image_tokens: int
    pixels: tuple[int, int] | None  # width and height of the image as the dataset gives it

    def __str__(self) -> str:
        image = ""
        if self.pixels:
            width, height = self.pixels
            image = f", {self.image_tokens} of them for its image of {width} x {height} pixels"
        return f"{self.tokens} tokens{image}"


def room(run: RunSpec, encoder: PromptEncoder) -> int:
    """Tokens that a prompt may have."""
    return run.prompt.max_length or max(1, encoder.context - run.rollout.max_response_length)


def longest_prompts(
    run: RunSpec, encoder: PromptEncoder, *, split: Split = "train", count: int = LOOKED_AT
) -> list[PromptSize]:
    """Sizes of the likely longest prompts of each dataset, longest first.

    They come from the model's own processor; which ones are looked at, the datasets say.

    Raises:
        DataError: names an item that cannot be made into a prompt.
    """
    found: list[PromptSize] = []
    for name, dataset in run.mix.datasets.items():
        indices = dataset.longest(split, count)
        for start in range(0, len(indices), AT_ONCE):
            chosen = indices[start : start + AT_ONCE]
            items = [dataset.item(split, index) for index in chosen]
            items = [replace(item, id=f"{name}/{item.id}") for item in items]
            batch = encoder.encode(items, run.prompt)
            image = (batch.input_ids == encoder.vision.image_token_id).sum(dim=1).tolist()
            for item, tokens, of_image in zip(
                items, batch.attention_mask.sum(dim=1).tolist(), image, strict=True
            ):
                size = item.image.size if item.image else None
                found.append(PromptSize(item.id, int(tokens), int(of_image), size))
    return sorted(found, key=lambda size: (-size.tokens, size.id))


def too_long(sizes: Sequence[PromptSize], limit: int) -> list[Problem]:
    """What is to be said of prompts that are longer than `limit`, one problem for each."""
    return [
        Problem(
            f"the prompt of item {size.id!r} has {size}; there is room for {limit}",
            where=f"item {size.id}",
            remedy="lower backbone.max_pixels, raise prompt.max_length if it is set, or leave the "
            "item out",
        )
        for size in sizes
        if size.tokens > limit
    ]


def check_prompts(run: RunSpec) -> None:
    """Look at the likely longest prompts, before anything is trained.

    Raises:
        ConfigError: names every one of them that is too long.
        DataError: names an item that cannot be made into a prompt.
    """
    encoder = run.backbone.encoder()
    if problems := too_long(longest_prompts(run, encoder), room(run, encoder)):
        raise ConfigError(problems)
