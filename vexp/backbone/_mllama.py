"""Llama-3.2-Vision: the text looks at an image through cross-attention layers of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vexp.policy.family import Family, Grid, Pieces
from vexp.probe.layout import Layout

if TYPE_CHECKING:
    from PIL.Image import Image

    from vexp.policy.prompts import PromptBatch


class Mllama(Family):
    """Llama 3.2 (arXiv:2407.21783, §7): tiles of an image are keys of some decoder layers.

    One token of the text stands for the whole image, and what comes after it sees the image. As in
    transformers, what comes before has the keys of the filling tiles as well, without the
    layer's feed-forward part. Without an image these layers are left out.
    """

    def reserved_ids(self, config: Any, tokenizer: Any) -> frozenset[int]:
        return frozenset({self.image_token_id(config)})

    def pieces(self, images: Sequence[Image], image_processor: Any) -> Pieces:
        from transformers.models.mllama.image_processing_pil_mllama import (
            get_all_supported_aspect_ratios,
        )

        found = image_processor(images=[[image] for image in images], return_tensors="pt")
        ratios = get_all_supported_aspect_ratios(image_processor.max_image_tiles)
        chosen = [ratios[int(number) - 1] for number in found["aspect_ratio_ids"][:, 0]]
        grids = [(1, int(down), int(across)) for down, across in chosen]
        return Pieces(found["pixel_values"][:, 0], grids, [1] * len(grids))

    def layout(self, config: Any, grid: Grid) -> Layout:
        return ()

    def expanded(self, config: Any, tokenizer: Any, grid: Grid) -> list[int]:
        return [self.image_token_id(config)]

    def image_tokens(self, config: Any, ids: Tensor) -> Tensor:
        return torch.zeros_like(ids, dtype=torch.bool)

    def vision_blocks(self, model: Any) -> Any:
        tower = model.model.vision_model
        return [*tower.transformer.layers, *tower.global_transformer.layers]

    def sighted(
        self, model: Any, embeds: Tensor, image: Tensor, prompts: PromptBatch
    ) -> dict[str, Any]:
        if prompts.pixel_values is None or prompts.image_grid_thw is None:
            return {"inputs_embeds": embeds}
        states, valid = _seen(model, prompts.pixel_values, prompts.image_grid_thw)
        rows = torch.tensor(list(map(bool, prompts.pieces)), device=embeds.device)
        after = (prompts.input_ids == self.image_token_id(model.config)).cumsum(dim=1) > 0
        everywhere = states.new_zeros(len(rows), *states.shape[1:])
        keys = valid.new_zeros(len(rows), valid.shape[1])
        keys[rows] = valid
        allowed = (keys[:, None] | ~after[:, :, None]) & rows[:, None, None]
        return {
            "inputs_embeds": embeds,
            "cross_attention_states": everywhere.masked_scatter(rows[:, None, None], states),
            "cross_attention_mask": allowed.unsqueeze(1),
            "full_text_row_masked_out_mask": after[:, None, :, None].to(embeds.dtype),
        }


def _seen(model: Any, pixels: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Keys of each image [image, key, hidden], and which of them belong to a tile of it."""
    vision = model.config.vision_config
    tiles = grid[:, 1] * grid[:, 2]
    number = [vision.supported_aspect_ratios.index(ratio) + 1 for ratio in grid[:, 1:].tolist()]
    there = torch.arange(pixels.shape[1], device=pixels.device) < tiles.unsqueeze(1)
    states = model.model.vision_model(
        pixel_values=pixels.unsqueeze(1),
        aspect_ratio_ids=torch.tensor(number, device=pixels.device).unsqueeze(1),
        aspect_ratio_mask=there.long().unsqueeze(1),
    ).last_hidden_state
    valid = there.repeat_interleave(states.shape[-2], dim=1)
    return model.model.multi_modal_projector(states).flatten(1, 3), valid
