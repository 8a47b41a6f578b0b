"""Tokenizer and image processor of a real model, and its processor's files for its checkpoints."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vexp.backbone import _folder
from vexp.errors import CheckpointError


@dataclass(frozen=True)
class Limits:
    """Between how many pixels an image has; others are resized."""

    min_pixels: int
    max_pixels: int

    def within(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The settings of an image processor with these limits."""
        size = {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels}
        # Names that real models' files have beside or instead of `size`, which they overrule.
        old = {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
        return settings | {"size": size} | old


def tokenizer(folder: Path) -> Any:
    """The tokenizer in `folder`, with a chat template, an end and a padding token.

    Raises:
        CheckpointError: if it cannot be read or lacks one of them.
    """
    from transformers import AutoTokenizer

    load: Any = AutoTokenizer
    try:
        found = load.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises plain Exception for a damaged file
        raise CheckpointError(
            f"the model's tokenizer cannot be read: {str(error).splitlines()[0]}",
            where=str(folder),
            remedy="copy the tokenizer's files from the model this one was made from",
        ) from error
    if found.chat_template is None:
        found.chat_template = _folder.read(folder / _folder.TEMPLATES[1]).get("chat_template")
    lacks = [
        what
        for what, value in (
            ("chat template", found.chat_template),
            ("end-of-sequence token", found.eos_token_id),
            ("padding token", found.pad_token_id),
        )
        if value is None
    ]
    if lacks:
        raise CheckpointError(
            f"the model's tokenizer has no {lacks[0]}",
            where=str(folder),
            remedy="use the instruction-tuned model, or complete its tokenizer_config.json",
        )
    return found


def image_processor(folder: Path, limits: Limits) -> Any:
    """The image processor in `folder` in its PIL version, which does not need torchvision."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    settings = limits.within({})
    return Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True, **settings)


def kept_files(folder: Path, limits: Limits) -> dict[str, bytes]:
    """What AutoProcessor reads in `folder`, for checkpoints, with these limits for images."""
    found = {
        name: (folder / name).read_bytes()
        for name in _folder.PROCESSORS
        if (folder / name).is_file()
    }
    if name := next((n for n in (_folder.IMAGE_PROCESSOR,) if n in found), None):
        found[name] = _written(limits.within(json.loads(found[name])))
    if _folder.PROCESSOR in found:
        settings = json.loads(found[_folder.PROCESSOR])
        if isinstance(nested := settings.get("image_processor"), dict):
            settings["image_processor"] = limits.within(nested)
        found[_folder.PROCESSOR] = _written(settings)
    return found


def _written(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
