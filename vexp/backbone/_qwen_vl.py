"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: patch rows of any length, positions in three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vexp.policy.family import Family, Grid, Pieces
from vexp.probe.layout import Layout, View

if TYPE_CHECKING:
    from PIL.Image import Image

    from vexp.policy.prompts import PromptBatch


class QwenVL(Family):
    """Qwen2-VL (arXiv:2409.12191) and Qwen2.5-VL (arXiv:2502.13923): image tokens among the text.

    Positions are three-dimensional (M-RoPE), and an image's patches come in rows of any length,
    `spatial_merge_size` squared of them to a token.
    """

    written = 3  # the image token, and those of where vision starts and ends

    def reserved_ids(self, config: Any, tokenizer: Any) -> frozenset[int]:
        names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
        return frozenset(int(getattr(config, name)) for name in names)

    def pieces(self, images: Sequence[Image], image_processor: Any) -> Pieces:
        found = image_processor(images=list(images), return_tensors="pt")
        grids = [(int(t), int(h), int(w)) for t, h, w in found["image_grid_thw"].tolist()]
        return Pieces(found["pixel_values"], grids, [t * h * w for t, h, w in grids])

    def layout(self, config: Any, grid: Grid) -> Layout:
        merge = int(config.vision_config.spatial_merge_size)
        return (View(grid[1] // merge, grid[2] // merge),)

    def expanded(self, config: Any, tokenizer: Any, grid: Grid) -> list[int]:
        (view,) = self.layout(config, grid)
        return [self.image_token_id(config)] * (view.rows * view.columns)

    def positions(self, config: Any, ids: Sequence[int], grid: Grid | None) -> Tensor:
        """M-RoPE positions of one prompt with at most one image (arXiv:2409.12191, §2.1).

        Text counts on in all three dimensions; the tokens of an image share one time and have their
        row and column as height and width; text after it goes on from the largest position.
        """
        if grid is None:
            return super().positions(config, ids, grid)
        first = ids.index(self.image_token_id(config))
        (view,) = self.layout(config, grid)
        row = torch.arange(view.rows).repeat_interleave(view.columns)
        column = torch.arange(view.columns).repeat(view.rows)
        image = torch.stack([torch.zeros_like(row), row, column]) + first
        rest = len(ids) - first - len(row)
        after = torch.arange(rest).expand(3, -1) + first + max(view.grid)
        return torch.cat([torch.arange(first).expand(3, -1), image, after], dim=1)

    def decoder_positions(self, positions: Tensor) -> Tensor:
        return positions

    def vision_blocks(self, model: Any) -> Any:
        return model.get_encoder("image").blocks

    def sighted(
        self, model: Any, embeds: Tensor, image: Tensor, prompts: PromptBatch
    ) -> dict[str, Any]:
        if prompts.pixel_values is None:
            return {"inputs_embeds": embeds}
        seen = model.model.get_image_features(prompts.pixel_values, prompts.image_grid_thw)
        tokens = torch.cat(seen.pooler_output).to(embeds.dtype)
        embeds = embeds.masked_scatter(image.unsqueeze(-1), tokens)
        return {"inputs_embeds": embeds, **self.deeper(seen, image)}

    def deeper(self, seen: Any, image: Tensor) -> dict[str, Any]:
        """What of the images enters the decoder further up, as its arguments."""
        return {}


class Qwen3VL(QwenVL):
    """Qwen3-VL (arXiv:2511.21631): the tower's middle layers are added in the first decoder layers.

    (DeepStack, arXiv:2406.04334.)
    """

    def deeper(self, seen: Any, image: Tensor) -> dict[str, Any]:
        features = [torch.cat(layer) for layer in seen.deepstack_features]
        return {"visual_pos_masks": image, "deepstack_visual_embeds": features}
