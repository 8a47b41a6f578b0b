"""What a family of models makes of an image: pieces for its vision tower, tokens for its decoder.

What transformers gives every model (`get_decoder`, `get_encoder`, `get_input_embeddings`,
`get_output_embeddings`, `config.get_text_config`) is used as it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from vexp.probe.layout import Layout

if TYPE_CHECKING:
    from PIL.Image import Image

    from vexp.policy.prompts import PromptBatch

Grid = tuple[int, int, int]  # pieces of an image along time, height and width


@dataclass(frozen=True)
class Pieces:
    """Images as their vision tower takes them."""

    pixel_values: Tensor  # [piece, ...] patches or tiles of all images in order
    grids: list[Grid]  # of each image
    counts: list[int]  # how many pieces each image has


class Family(ABC):
    """Where one family of models differs from the others."""

    # Reserved tokens that the chat template writes for an image: its placeholder, and those around.
    written: ClassVar[int] = 1

    def image_token_id(self, config: Any) -> int:
        """Id of the token that stands for an image in a text, or for a piece of it."""
        return int(config.image_token_id)

    @abstractmethod
    def reserved_ids(self, config: Any, tokenizer: Any) -> frozenset[int]:
        """Ids that only the chat template may write."""

    @abstractmethod
    def pieces(self, images: Sequence[Image], image_processor: Any) -> Pieces:
        """Images cut up.

        Raises:
            ValueError: if the image processor refuses one of them.
        """

    @abstractmethod
    def layout(self, config: Any, grid: Grid) -> Layout:
        """Where the tokens of an image lie on it."""

    @abstractmethod
    def expanded(self, config: Any, tokenizer: Any, grid: Grid) -> list[int]:
        """The ids that an image's placeholder becomes."""

    def positions(self, config: Any, ids: Sequence[int], grid: Grid | None) -> Tensor:
        """Positions [3, position] of a prompt; in one dimension all three are the same."""
        return torch.arange(len(ids)).expand(3, -1)

    def decoder_positions(self, positions: Tensor) -> Tensor:
        """Positions [3, row, position] in the form that the decoder takes."""
        return positions[0]

    @abstractmethod
    def vision_blocks(self, model: Any) -> Any:
        """The vision tower's layers, in order."""

    def image_tokens(self, config: Any, ids: Tensor) -> Tensor:  # [prompt, position] bool
        """Which of the decoder's tokens stand for pieces of an image."""
        return ids == self.image_token_id(config)

    @abstractmethod
    def sighted(
        self,
        model: Any,
        embeds: Tensor,  # [prompt, position, hidden] of the tokens
        image: Tensor,  # [prompt, position] bool: image tokens
        prompts: PromptBatch,
    ) -> dict[str, Any]:
        """The decoder's arguments that hold the prompts, with the images in their places."""
