"""Making prompts without a model's weights: to know how long they are before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vexp.policy import prompts

if TYPE_CHECKING:
    from vexp.dataset.base import Item
    from vexp.spec.run import Prompt


@dataclass(frozen=True)
class PromptEncoder:
    """Tokenizer and image processor of a model, and its configuration."""

    tokenizer: Any
    image_processor: Any
    vision: prompts.Vision
    config: Any  # transformers' configuration of the whole model

    @property
    def context(self) -> int:
        """Most tokens of prompt and response together that the model was made for."""
        return int(self.config.get_text_config().max_position_embeddings)

    def encode(self, items: Sequence[Item], prompt: Prompt) -> prompts.PromptBatch:
        """As `Policy.encode`, on the CPU.

        Raises:
            DataError: names the item whose image or text cannot be used.
        """
        return prompts.encode(items, prompt, self.tokenizer, self.image_processor, self.vision)
