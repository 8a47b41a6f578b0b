"""What the tiny twins have in common: their sizes, and how one is built, saved and read again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vexp.backbone.base import Backbone
from vexp.config.types import Count, PositiveInt
from vexp.errors import Problem
from vexp.policy.options import NO_TOKENS, Attention, Emits, Precision

if TYPE_CHECKING:
    from vexp.backbone._tokenizer import Dialect
    from vexp.policy.policy import Policy
    from vexp.spec.run import RunSpec


@dataclass(frozen=True, kw_only=True)
class Tiny(Backbone):
    """A real transformers class at a size that trains on a laptop; nothing is downloaded.

    The tokenizer is byte-level with one token per digit and per word of the digits questions.
    """

    model_type: ClassVar[str]  # of the transformers configuration
    dialect: ClassVar[str] = "QWEN"  # of the tokenizer
    patch: ClassVar[int] = 14  # pixels; an image token covers 2 x 2 patches

    layers: PositiveInt = 6  # decoder layers
    hidden_size: PositiveInt = 128  # width of the decoder
    heads: PositiveInt = 4  # attention heads of the decoder
    kv_heads: PositiveInt = 2  # key and value heads, shared by groups of heads
    intermediate_size: PositiveInt = 256  # width of the decoder's feed-forward layers
    vision_depth: PositiveInt = 2  # blocks of the vision tower
    vision_hidden_size: PositiveInt = 64  # width of the vision tower
    vision_heads: PositiveInt = 4  # attention heads of the vision tower
    init_seed: Count = 0  # the first weights are a function of the sizes and this number

    @property
    def decoder_layers(self) -> int:
        return self.layers

    @property
    def parameters(self) -> int:
        from vexp.backbone import _tokenizer

        width, deep = self.hidden_size, self.vision_hidden_size
        cached = width * self.kv_heads // self.heads  # width of keys and of values
        layer = 2 * width * (width + cached) + 3 * width * self.intermediate_size
        block = 4 * deep**2 + 3 * deep * 2 * deep
        merged = 4 * deep  # four patches become one image token
        vocabulary = 256 + len(_tokenizer.pieces())
        ends = 2 * vocabulary * width + 3 * 2 * self.patch**2 * deep
        tower = self.vision_depth * block + merged * (merged + width)
        return self.layers * layer + tower + ends

    def problems(self, run: RunSpec) -> Iterator[Problem]:
        for width, heads, names in (
            (self.hidden_size, self.heads, ("hidden_size", "heads")),
            (self.vision_hidden_size, self.vision_heads, ("vision_hidden_size", "vision_heads")),
        ):
            if width % heads or (width // heads) % 4:
                yield Problem(
                    f"{names[0]} ({width}) / {names[1]} ({heads}) is not a head size",
                    where=names[0],
                    accepted="the head size has to be a multiple of 4 (32 suits every kernel)",
                )
        if self.heads % self.kv_heads:
            yield Problem(
                f"heads ({self.heads}) is not a multiple of kv_heads ({self.kv_heads})",
                where="kv_heads",
            )

    def content(self) -> dict[str, Any]:
        from vexp.backbone import _tokenizer

        return {"tokenizer": _tokenizer.digest(self._dialect())}

    def check(self, checkpoint: Path) -> None:
        from vexp.backbone import _imports

        _imports.hide_broken_packages()
        from vexp.backbone import _checkpoint, _emitted, _tokenizer, _twin

        tokenizer = _tokenizer.build(self._dialect())
        _emitted.add_to_tokenizer(tokenizer, _emitted.recorded(checkpoint))
        _checkpoint.check_architecture(checkpoint, _twin.configuration(self, tokenizer))

    def load(
        self,
        checkpoint: Path | None = None,
        *,
        device: str = "cpu",
        precision: Precision = "fp32",
        attention: Attention = "auto",
        emits: Emits = NO_TOKENS,
    ) -> Policy:
        from vexp.backbone import _imports

        _imports.hide_broken_packages()
        from vexp.backbone import _checkpoint, _emitted, _tokenizer, _twin
        from vexp.backbone._family import FAMILIES
        from vexp.policy.policy import Policy

        tokenizer = _tokenizer.build(self._dialect())
        saved = () if checkpoint is None else _emitted.recorded(Path(checkpoint))
        _emitted.add_to_tokenizer(tokenizer, saved)
        config = _twin.configuration(self, tokenizer)
        if checkpoint is None:
            model = _twin.new_model(self, config)
        else:
            model = _checkpoint.load(Path(checkpoint), config)
            tokenizer = _checkpoint.tokenizer(Path(checkpoint), like=tokenizer)
        _emitted.add(model, tokenizer, emits, multiple=_twin.VOCABULARY_MULTIPLE)
        return Policy(
            model,
            tokenizer,
            _twin.image_processor(self),
            FAMILIES[self.model_type],
            device=device,
            precision=precision,
            attention=attention,
            emits=tuple(dict.fromkeys((*saved, *emits))),
            files=_twin.files(self),
        )

    def _dialect(self) -> Dialect:
        from vexp.backbone import _tokenizer

        found: Dialect = getattr(_tokenizer, self.dialect)
        return found


@dataclass(frozen=True, kw_only=True)
class TinyQwen(Tiny):
    """One of the Qwen-VL family: images of any shape, within limits."""

    min_image_tokens: PositiveInt = 1  # smaller images are enlarged
    max_image_tokens: PositiveInt = 256  # larger images are shrunk

    def problems(self, run: RunSpec) -> Iterator[Problem]:
        yield from super().problems(run)
        if self.min_image_tokens > self.max_image_tokens:
            yield Problem(
                f"min_image_tokens ({self.min_image_tokens}) is more than max_image_tokens "
                f"({self.max_image_tokens})",
                where="min_image_tokens",
            )
