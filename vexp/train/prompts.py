"""Prompts as tensors: chat template, image patches, and M-RoPE positions, ready for the policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vexp.errors import DataError

if TYPE_CHECKING:
    from vexp.dataset.base import Item
    from vexp.spec import Prompt


@dataclass(frozen=True)
class PromptBatch:
    """Prompts of any lengths, padded on the left; `len()` is the number of prompts."""

    input_ids: Tensor  # [prompt, position] int64
    attention_mask: Tensor  # [prompt, position] bool, false on the padding
    position_ids: Tensor  # [3, prompt, position] int64: time, height, width (M-RoPE)
    next_position: Tensor  # [prompt] int64, position of the first response token
    pixel_values: Tensor | None  # [patch, patch value] of all images in order; None without images
    image_grid_thw: Tensor | None  # [image, 3] patches along time, height and width
    images_per_prompt: tuple[int, ...]
    item_ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.input_ids)

    def to(self, device: torch.device | str) -> PromptBatch:
        """The same prompts on another device."""
        moved: dict[str, Any] = {
            field.name: value.to(device)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **moved)

    def select(self, indices: Sequence[int] | Tensor) -> PromptBatch:
        """Some of the prompts, in the given order, with the padding they need and no more."""
        chosen = [int(index) for index in indices]
        mask = self.attention_mask[chosen]
        start = self.input_ids.shape[1] - int(mask.sum(1).max()) if chosen else 0
        pixels, grids = self._images(chosen)
        return PromptBatch(
            input_ids=self.input_ids[chosen, start:],
            attention_mask=mask[:, start:],
            position_ids=self.position_ids[:, chosen, start:],
            next_position=self.next_position[chosen],
            pixel_values=pixels,
            image_grid_thw=grids,
            images_per_prompt=tuple(self.images_per_prompt[index] for index in chosen),
            item_ids=tuple(self.item_ids[index] for index in chosen),
        )

    def _images(self, chosen: Sequence[int]) -> tuple[Tensor | None, Tensor | None]:
        if self.pixel_values is None or self.image_grid_thw is None:
            return None, None
        patches = torch.split(self.pixel_values, self.image_grid_thw.prod(1).tolist())
        first = [sum(self.images_per_prompt[:index]) for index in range(len(self))]
        images = [
            first[index] + k for index in chosen for k in range(self.images_per_prompt[index])
        ]
        if not images:
            return None, None
        return torch.cat([patches[i] for i in images]), self.image_grid_thw[images]


@dataclass(frozen=True)
class Vision:
    """What encoding has to know of a Qwen-VL model: its placeholder and its patch sizes."""

    image_token: str
    image_token_id: int
    reserved: frozenset[int]  # ids that only the chat template may write: the vision tokens
    merge: int  # patches per image token, along each side


def encode(
    items: Sequence[Item], prompt: Prompt, tokenizer: Any, image_processor: Any, vision: Vision
) -> PromptBatch:
    """Apply the chat template, cut images into patches, and lay out positions.

    Raises:
        DataError: names the item whose image cannot be used, or whose text holds vision tokens.
    """
    if not items:
        return _pad([], [], [], None, [], tokenizer.pad_token_id)
    pixels, grids = _patches(items, image_processor)
    per_image = [int(t * h * w) // vision.merge**2 for t, h, w in grids]
    image = iter(zip(per_image, grids, strict=True))
    rows: list[list[int]] = []
    places: list[Tensor] = []
    texts = _texts(items, prompt, tokenizer)
    for item, ids in zip(items, tokenizer(texts, add_special_tokens=False).input_ids, strict=True):
        tokens, grid = next(image) if item.image is not None else (0, (0, 0, 0))
        _check_vision_tokens(item, ids, vision)
        rows.append(_expand(ids, vision.image_token_id, tokens))
        places.append(positions(rows[-1], vision.image_token_id, grid, vision.merge))
    return _pad(items, rows, places, pixels, grids, tokenizer.pad_token_id)


def positions(
    ids: Sequence[int], image_token_id: int, grid: tuple[int, int, int], merge: int
) -> Tensor:  # [3, position]
    """M-RoPE positions of one prompt with at most one image (Qwen2-VL, arXiv:2409.12191, §2.1).

    Text counts on in all three dimensions; the tokens of an image share one time and have their
    row and column as height and width; text after it goes on from the largest position.
    """
    first = ids.index(image_token_id) if image_token_id in ids else len(ids)
    before = torch.arange(first).expand(3, -1)
    if first == len(ids):
        return before
    height, width = grid[1] // merge, grid[2] // merge
    row = torch.arange(height).repeat_interleave(width)
    column = torch.arange(width).repeat(height)
    image = torch.stack([torch.zeros_like(row), row, column]) + first
    rest = len(ids) - first - height * width
    after = torch.arange(rest).expand(3, -1) + first + max(height, width)
    return torch.cat([before, image, after], dim=1)


def _texts(items: Sequence[Item], prompt: Prompt, tokenizer: Any) -> list[str]:
    conversations = []
    for item in items:
        question = f"{item.question}\n{prompt.instruction}" if prompt.instruction else item.question
        parts: list[dict[str, str]] = [] if item.image is None else [{"type": "image"}]
        parts.append({"type": "text", "text": question})
        system = [{"role": "system", "content": prompt.system}] if prompt.system else []
        conversations.append([*system, {"role": "user", "content": parts}])
    texts: list[str] = tokenizer.apply_chat_template(
        conversations, tokenize=False, add_generation_prompt=True
    )
    return texts


def _patches(
    items: Sequence[Item], image_processor: Any
) -> tuple[Tensor | None, list[tuple[int, int, int]]]:
    images = [item.image for item in items if item.image is not None]
    if not images:
        return None, []
    try:
        found = image_processor(images=images, return_tensors="pt")
    except (ValueError, OSError) as error:
        _blame_one(items, image_processor)
        raise DataError(f"the images cannot be cut into patches: {error}") from error
    grids = [(int(t), int(h), int(w)) for t, h, w in found["image_grid_thw"].tolist()]
    return found["pixel_values"], grids


def _blame_one(items: Sequence[Item], image_processor: Any) -> None:
    """Find the item whose image the processor refuses, and say so."""
    for item in items:
        try:
            if item.image is not None:
                image_processor(images=[item.image])
        except (ValueError, OSError) as error:
            raise DataError(
                f"the image of item {item.id!r} cannot be cut into patches: {error}",
                where=f"item {item.id}",
                remedy="mend or remove the image",
            ) from error


def _check_vision_tokens(item: Item, ids: Sequence[int], vision: Vision) -> None:
    """A question that spells a vision token would ask for image features that do not exist."""
    expected = 0 if item.image is None else 1
    written = sum(token in vision.reserved for token in ids)
    if ids.count(vision.image_token_id) != expected or written != 3 * expected:
        raise DataError(
            f"the text of item {item.id!r} contains a special token such as "
            f"{vision.image_token!r}, which only the chat template may write",
            where=f"item {item.id}",
            remedy="remove it from the question, the instruction and the system message",
        )


def _expand(ids: Sequence[int], placeholder: int, count: int) -> list[int]:
    """Replace the one placeholder by as many as the image has tokens."""
    if not count:
        return list(ids)
    at = ids.index(placeholder)
    return [*ids[:at], *[placeholder] * count, *ids[at + 1 :]]


def _pad(
    items: Sequence[Item],
    rows: Sequence[Sequence[int]],
    places: Sequence[Tensor],
    pixels: Tensor | None,
    grids: Sequence[tuple[int, int, int]],
    pad_id: int,
) -> PromptBatch:
    length = max((len(row) for row in rows), default=0)
    input_ids = torch.full((len(rows), length), pad_id, dtype=torch.int64)
    attention_mask = torch.zeros(len(rows), length, dtype=torch.bool)
    position_ids = torch.zeros(3, len(rows), length, dtype=torch.int64)
    for index, (row, place) in enumerate(zip(rows, places, strict=True)):
        start = length - len(row)
        input_ids[index, start:] = torch.tensor(row)
        attention_mask[index, start:] = True
        position_ids[:, index, start:] = place
    return PromptBatch(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=position_ids,
        next_position=torch.tensor([int(place.max()) + 1 for place in places], dtype=torch.int64),
        pixel_values=pixels,
        image_grid_thw=torch.tensor(grids, dtype=torch.int64) if grids else None,
        images_per_prompt=tuple(int(item.image is not None) for item in items),
        item_ids=tuple(item.id for item in items),
    )
