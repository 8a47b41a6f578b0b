"""What a backbone is: a vision-language model, and where it comes from."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from vexp.config.types import Neutral
from vexp.policy.options import NO_TOKENS, Attention, Emits, Lora, Precision
from vexp.registry import Component

if TYPE_CHECKING:
    from vexp.policy.policy import Policy
    from vexp.policy.prompt_encoder import PromptEncoder


@dataclass(frozen=True, kw_only=True)
class Backbone(Component):
    """Builds or loads a model together with its tokenizer and image processor."""

    kind: ClassVar[str] = "backbone"
    # Needs that no model of this family meets: `attention` on image tokens, `similarity` with them;
    # `emits` says that no token can be added.
    lacks: ClassVar[tuple[str, ...]] = ()

    # Whether its models know words, so that a prompt can tell them how to answer.
    follows_instructions: ClassVar[bool] = False

    lora: Annotated[Lora, Neutral(Lora())] = Lora()  # low-rank changes, in place of all weights

    @property
    def decoder_layers(self) -> int | None:
        """Decoder layers of the language model; None where only loading it tells."""
        return None

    @property
    def parameters(self) -> int | None:
        """About how many weights it has; None where only loading it tells."""
        return None

    @property
    def bytes_per_parameter(self) -> int:
        """Of a saved checkpoint."""
        return 4

    def check(self, checkpoint: Path) -> None:
        """Compare what a checkpoint folder says of itself with this backbone; loads no weights.

        Raises:
            CheckpointError: if it is of another architecture; names both.
        """

    @abstractmethod
    def load(
        self,
        checkpoint: Path | None = None,
        *,
        device: str = "cpu",
        precision: Precision = "fp32",
        attention: Attention = "auto",
        emits: Emits = NO_TOKENS,
    ) -> Policy:
        """The policy: from `checkpoint` (a folder in Hugging Face format) or as the run starts it.

        `emits` are special tokens that may be sampled besides the end of the sequence; those that
        the tokenizer lacks are added to it, and to the model. So may those that `checkpoint` was
        saved with.

        Raises:
            CheckpointError: if the checkpoint is damaged or of another architecture; names both.
        """

    def encoder(self) -> PromptEncoder:
        """Tokenizer and image processor. Override it where they are to be had without the weights.

        Raises:
            CheckpointError: as `load`.
        """
        return self.load().encoder()
