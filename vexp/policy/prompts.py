"""Prompts as tensors: chat template, pieces of images, and positions, ready for the policy."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jinja2 import TemplateError
from torch import Tensor

from vexp.errors import ConfigError, DataError, Problem
from vexp.policy import control_tokens
from vexp.probe.layout import Layout

if TYPE_CHECKING:
    from vexp.dataset.base import Item
    from vexp.policy.family import Family, Pieces
    from vexp.spec.run import Prompt


# Llama 3's chat template writes today's date unless it is given one; this is what it writes where
# there is no clock.
_DATE = "26 Jul 2024"


@dataclass(frozen=True)
class PromptBatch:
    """Prompts of any lengths, padded on the left; `len()` is the number of prompts."""

    input_ids: Tensor  # [prompt, position] int64
    attention_mask: Tensor  # [prompt, position] bool, false on the padding
    position_ids: Tensor  # [3, prompt, position] int64: time, height, width (M-RoPE)
    next_position: Tensor  # [prompt] int64, position of the first response token
    # [piece, ...] patches or tiles of all images in order; None without images
    pixel_values: Tensor | None
    image_grid_thw: Tensor | None  # [image, 3] pieces along time, height and width
    pieces: tuple[int, ...]  # [prompt] pieces of its image; 0 without one
    layouts: tuple[Layout, ...]  # [prompt] where its image tokens are; empty without an image
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
            pieces=tuple(self.pieces[index] for index in chosen),
            layouts=tuple(self.layouts[index] for index in chosen),
            item_ids=tuple(self.item_ids[index] for index in chosen),
        )

    def _images(self, chosen: Sequence[int]) -> tuple[Tensor | None, Tensor | None]:
        if self.pixel_values is None or self.image_grid_thw is None:
            return None, None
        own = torch.split(self.pixel_values, list(self.pieces))
        with_image = [index for index in chosen if self.pieces[index]]
        if not with_image:
            return None, None
        images = [sum(map(bool, self.pieces[:index])) for index in with_image]
        return torch.cat([own[index] for index in with_image]), self.image_grid_thw[images]


@dataclass(frozen=True)
class Vision:
    """What encoding has to know of a model: how its family makes tokens of an image."""

    family: Family
    config: Any
    image_token_id: int
    reserved: frozenset[int]  # ids that only the chat template may write: the vision tokens
    controls: re.Pattern[str]  # what spells a token that only the chat template may write


def encode(
    items: Sequence[Item], prompt: Prompt, tokenizer: Any, image_processor: Any, vision: Vision
) -> PromptBatch:
    """Apply the chat template, cut images into pieces, and lay out positions.

    Raises:
        ConfigError: if the chat template refuses the prompt, or does not place its image.
        DataError: names the item whose image cannot be used.
    """
    if not items:
        return _pad([], [], [], [], None, tokenizer.pad_token_id)
    family, config = vision.family, vision.config
    pieces = _pieces(items, image_processor, family)
    image = iter(pieces.grids if pieces else ())
    rows: list[list[int]] = []
    places: list[Tensor] = []
    layouts: list[Layout] = []
    for item, ids in zip(items, _token_ids(items, prompt, tokenizer, vision), strict=True):
        grid = next(image) if item.image is not None else None
        _check_template(item, ids, vision)
        if grid is not None:
            at = ids.index(vision.image_token_id)
            ids = [*ids[:at], *family.expanded(config, tokenizer, grid), *ids[at + 1 :]]
        rows.append(ids)
        places.append(family.positions(config, ids, grid))
        layouts.append(() if grid is None else family.layout(config, grid))
    return _pad(items, rows, places, layouts, pieces, tokenizer.pad_token_id)


def _token_ids(
    items: Sequence[Item], prompt: Prompt, tokenizer: Any, vision: Vision
) -> list[list[int]]:
    """Prompts as ids. What the items and the config spell is text; the template alone controls."""
    rest = f"\n{prompt.instruction}" if prompt.instruction else ""
    questions = [f"{item.question}{rest}" for item in items]
    mark = control_tokens.unused_character([*questions, prompt.system])
    cut = functools.partial(control_tokens.marked, controls=vision.controls, mark=mark)
    system = [{"role": "system", "content": cut(prompt.system)}] if prompt.system else []
    conversations: list[list[Mapping[str, Any]]] = []
    for item, question in zip(items, questions, strict=True):
        parts: list[dict[str, str]] = [] if item.image is None else [{"type": "image"}]
        parts.append({"type": "text", "text": cut(question)})
        conversations.append([*system, {"role": "user", "content": parts}])
    return control_tokens.token_ids(tokenizer, _rendered(conversations, tokenizer), mark)


def _rendered(conversations: Sequence[Sequence[Mapping[str, Any]]], tokenizer: Any) -> list[str]:
    try:
        texts: list[str] = tokenizer.apply_chat_template(
            conversations, tokenize=False, add_generation_prompt=True, date_string=_DATE
        )
    except TemplateError as error:
        raise ConfigError(
            Problem(
                f"the model's chat template refuses the prompt: {error}",
                where="prompt",
                remedy="set prompt.system to an empty text, or choose another backbone",
            )
        ) from error
    return texts


def opening(tokenizer: Any) -> str:
    """What the chat template has already written of the response: `<think>`, or nothing.

    The templates of models that always think first end their prompts with it.
    """
    conversation = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
    prompt: str = tokenizer.apply_chat_template(
        conversation, tokenize=False, add_generation_prompt=True, date_string=_DATE
    )
    return "<think>" if prompt.rstrip().endswith("<think>") else ""


def _pieces(items: Sequence[Item], image_processor: Any, family: Family) -> Pieces | None:
    images = [item.image for item in items if item.image is not None]
    if not images:
        return None
    try:
        return family.pieces(images, image_processor)
    except (ValueError, OSError) as error:
        _blame_one(items, image_processor, family)
        raise DataError(f"the images cannot be cut into patches: {error}") from error


def _blame_one(items: Sequence[Item], image_processor: Any, family: Family) -> None:
    """Find the item whose image the processor refuses, and say so."""
    for item in items:
        try:
            if item.image is not None:
                family.pieces([item.image], image_processor)
        except (ValueError, OSError) as error:
            raise DataError(
                f"the image of item {item.id!r} cannot be cut into patches: {error}",
                where=f"item {item.id}",
                remedy="mend or remove the image",
            ) from error


def _check_template(item: Item, ids: Sequence[int], vision: Vision) -> None:
    """A vision token too many would ask for image features that do not exist."""
    expected = 0 if item.image is None else 1
    written = sum(token in vision.reserved for token in ids)
    if ids.count(vision.image_token_id) != expected or written != vision.family.written * expected:
        raise ConfigError(
            Problem(
                f"the model's chat template does not place the {expected} image(s) of an item as "
                "its family does",
                where=f"item {item.id}",
                remedy="use the chat template that was published with the model",
            )
        )


def _pad(
    items: Sequence[Item],
    rows: Sequence[Sequence[int]],
    places: Sequence[Tensor],
    layouts: Sequence[Layout],
    pieces: Pieces | None,
    pad_id: int,
) -> PromptBatch:
    length = max((len(row) for row in rows), default=0)
    counts = iter(pieces.counts if pieces else ())
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
        pixel_values=pieces.pixel_values if pieces else None,
        image_grid_thw=torch.tensor(pieces.grids, dtype=torch.int64) if pieces else None,
        pieces=tuple(0 if item.image is None else next(counts) for item in items),
        layouts=tuple(layouts),
        item_ids=tuple(item.id for item in items),
    )
