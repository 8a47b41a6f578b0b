"""InternVL and SmolVLM: an image is cut into square tiles, each as many tokens as any other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vexp.policy.family import Family, Grid, Pieces
from vexp.probe.layout import Layout, tiled

if TYPE_CHECKING:
    from PIL.Image import Image

    from vexp.policy.prompts import PromptBatch

_TILE = re.compile(r"<row_\d+_col_\d+>")


class InternVL(Family):
    """InternVL3.5 (arXiv:2508.18265): as many tiles as fit the image's shape best, and a thumbnail.

    `downsample_ratio` squared is the share of a tile's patches that is left as tokens: neighbours
    are put together (pixel shuffle).
    """

    def reserved_ids(self, config: Any, tokenizer: Any) -> frozenset[int]:
        return frozenset(
            {
                self.image_token_id(config),
                *_known(tokenizer, [*_around(tokenizer), _name(tokenizer, "video_token")]),
            }
        )

    def pieces(self, images: Sequence[Image], image_processor: Any) -> Pieces:
        # Both backends of transformers take this from the same published rule.
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
            get_optimal_tiled_canvas,
        )

        found = image_processor(images=list(images), return_tensors="pt")
        counts = [int(count) for count in found["num_patches"]]
        side = (image_processor.size["height"], image_processor.size["width"])
        limits = (image_processor.min_patches, image_processor.max_patches)
        grids: list[Grid] = []
        for image, count in zip(images, counts, strict=True):
            across, down = get_optimal_tiled_canvas((image.height, image.width), side, *limits)
            grids.append((1, 1, 1) if count == 1 else (1, down, across))
        return Pieces(found["pixel_values"], grids, counts)

    def layout(self, config: Any, grid: Grid) -> Layout:
        size, patch = config.vision_config.image_size[0], config.vision_config.patch_size[0]
        return tiled(grid[1], grid[2], round(size // patch * config.downsample_ratio))

    def expanded(self, config: Any, tokenizer: Any, grid: Grid) -> list[int]:
        start, end = _known(tokenizer, _around(tokenizer))
        views = self.layout(config, grid)
        count = sum(view.rows * view.columns for view in views)
        return [start, *[self.image_token_id(config)] * count, end]

    def vision_blocks(self, model: Any) -> Any:
        return model.model.vision_tower.encoder.layer

    def sighted(
        self, model: Any, embeds: Tensor, image: Tensor, prompts: PromptBatch
    ) -> dict[str, Any]:
        if prompts.pixel_values is None:
            return {"inputs_embeds": embeds}
        config = model.config
        seen = model.model.get_image_features(
            prompts.pixel_values,
            vision_feature_layer=config.vision_feature_layer,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
        )
        tokens = seen.pooler_output.to(embeds.dtype)
        return {"inputs_embeds": embeds.masked_scatter(image.unsqueeze(-1), tokens)}


class SmolVLM(Family):
    """SmolVLM2 (arXiv:2504.05299): every image is enlarged to some tiles, each with its own name.

    The text before a tile says its row and column; last comes the image as a whole.
    `scale_factor` squared patches become one token (pixel shuffle).
    """

    def reserved_ids(self, config: Any, tokenizer: Any) -> frozenset[int]:
        around = ["<fake_token_around_image>", "<global-img>"]
        names = [name for name in tokenizer.get_vocab() if _TILE.fullmatch(name)]
        return frozenset({self.image_token_id(config), *_known(tokenizer, [*around, *names])})

    def pieces(self, images: Sequence[Image], image_processor: Any) -> Pieces:
        # One at a time: in a batch, images with fewer tiles would be filled up with empty ones.
        found = [
            image_processor(images=[[image]], return_row_col_info=True, return_tensors="pt")
            for image in images
        ]
        grids = [(1, max(1, one["rows"][0][0]), max(1, one["cols"][0][0])) for one in found]
        pixels = [one["pixel_values"][0] for one in found]
        return Pieces(torch.cat(pixels), grids, [len(one) for one in pixels])

    def layout(self, config: Any, grid: Grid) -> Layout:
        vision = config.vision_config
        return tiled(
            grid[1], grid[2], vision.image_size // vision.patch_size // config.scale_factor
        )

    def expanded(self, config: Any, tokenizer: Any, grid: Grid) -> list[int]:
        side = self.layout(config, grid)[-1].rows
        tile = tokenizer.convert_ids_to_tokens(self.image_token_id(config)) * side**2
        fake, text = "<fake_token_around_image>", ""
        if grid[1] * grid[2] > 1:
            for row in range(1, grid[1] + 1):
                names = [f"<row_{row}_col_{column}>" for column in range(1, grid[2] + 1)]
                text += "".join(f"{fake}{name}{tile}" for name in names) + "\n"
            text += "\n"
        text += f"{fake}<global-img>{tile}{fake}"
        ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def vision_blocks(self, model: Any) -> Any:
        return model.model.vision_model.encoder.layers

    def sighted(
        self, model: Any, embeds: Tensor, image: Tensor, prompts: PromptBatch
    ) -> dict[str, Any]:
        pixels = prompts.pixel_values
        if pixels is None:
            return {"inputs_embeds": embeds}
        # Not `get_image_features`: it takes a tile of zeros for padding and leaves it out.
        side = model.model.vision_model.embeddings.num_patches_per_side
        whole = torch.ones(len(pixels), side, side, dtype=torch.bool, device=pixels.device)
        seen = model.model.vision_model(
            pixel_values=pixels.to(model.dtype), patch_attention_mask=whole
        )
        tokens = model.model.connector(seen.last_hidden_state)
        tokens = tokens.to(embeds.dtype)
        return {"inputs_embeds": embeds.masked_scatter(image.unsqueeze(-1), tokens)}


def _name(tokenizer: Any, role: str) -> str:
    """What a token of InternVL is called: as its tokenizer says, else as its models have it."""
    usual = {"start_image_token": "<img>", "end_image_token": "</img>", "video_token": "<video>"}
    return str(getattr(tokenizer, role, None) or usual[role])


def _around(tokenizer: Any) -> list[str]:
    return [_name(tokenizer, "start_image_token"), _name(tokenizer, "end_image_token")]


def _known(tokenizer: Any, names: Sequence[str]) -> list[int]:
    vocabulary = tokenizer.get_vocab()
    return [vocabulary[name] for name in names if name in vocabulary]
