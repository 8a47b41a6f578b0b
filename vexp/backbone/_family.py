"""Where a family of models differs from the others: image tokens, and how its decoder sees them.

What transformers gives every model (`get_decoder`, `get_encoder`, `get_input_embeddings`,
`get_output_embeddings`, `config.get_text_config`) is used as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Family:
    """Qwen2-VL (arXiv:2409.12191) and Qwen2.5-VL (arXiv:2502.13923): image tokens among the text.

    Positions are three-dimensional (M-RoPE), and an image's patches come in rows of any length,
    `patches_per_side` squared of them to a token.
    """

    def image_token_id(self, config: Any) -> int:
        """Id of the token that stands for a piece of an image."""
        return int(config.image_token_id)

    def reserved_ids(self, config: Any) -> frozenset[int]:
        """Ids that only the chat template may write."""
        names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
        return frozenset(int(getattr(config, name)) for name in names)

    def patches_per_side(self, config: Any) -> int:
        """Patches per image token, along each side."""
        return int(config.vision_config.spatial_merge_size)

    def vision_blocks(self, model: Any) -> Any:
        """The vision tower's layers, in order."""
        return model.get_encoder("image").blocks

    def sighted(
        self,
        model: Any,
        embeds: Tensor,  # [prompt, position, hidden] of the tokens
        image: Tensor,  # [prompt, position] bool: image tokens
        pixel_values: Tensor | None,  # [patch, patch value]
        image_grid_thw: Tensor | None,  # [image, 3]
    ) -> dict[str, Any]:
        """The decoder's arguments that hold the prompts, with the images in their places."""
        if pixel_values is None:
            return {"inputs_embeds": embeds}
        seen = model.model.get_image_features(pixel_values, image_grid_thw)
        tokens = torch.cat(seen.pooler_output).to(embeds.dtype)
        embeds = embeds.masked_scatter(image.unsqueeze(-1), tokens)
        return {"inputs_embeds": embeds, **self.deeper(seen, image)}

    def deeper(self, seen: Any, image: Tensor) -> dict[str, Any]:
        """What of the images enters the decoder further up, as its arguments."""
        return {}


class Qwen3VL(Family):
    """Qwen3-VL (arXiv:2511.21631): the tower's middle layers are added in the first decoder layers.

    (DeepStack, arXiv:2406.04334.)
    """

    def deeper(self, seen: Any, image: Tensor) -> dict[str, Any]:
        features = [torch.cat(layer) for layer in seen.deepstack_features]
        return {"visual_pos_masks": image, "deepstack_visual_embeds": features}


# By the `model_type` of a transformers configuration.
FAMILIES: dict[str, Family] = {
    "qwen2_vl": Family(),
    "qwen2_5_vl": Family(),
    "qwen3_vl": Qwen3VL(),
}
