"""Tokenizer and image processor of a real model, and its processor's files for its checkpoints."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vexp.backbone import _folder
from vexp.errors import CheckpointError

# Each family's image processor in its PIL version, which does not need torchvision.
_IMAGE_PROCESSORS = {
    "qwen2_vl": "qwen2_vl.image_processing_pil_qwen2_vl.Qwen2VLImageProcessorPil",
    "qwen2_5_vl": "qwen2_vl.image_processing_pil_qwen2_vl.Qwen2VLImageProcessorPil",
    "qwen3_vl": "qwen2_vl.image_processing_pil_qwen2_vl.Qwen2VLImageProcessorPil",
    "internvl": "got_ocr2.image_processing_pil_got_ocr2.GotOcr2ImageProcessorPil",
    "mllama": "mllama.image_processing_pil_mllama.MllamaImageProcessorPil",
    "smolvlm": "smolvlm.image_processing_pil_smolvlm.SmolVLMImageProcessorPil",
}


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


def image_processor(folder: Path, model_type: str, settings: Mapping[str, Any]) -> Any:
    """The image processor in `folder`, with some settings instead of its own.

    Raises:
        CheckpointError: if it cannot be read.
    """
    module, _, name = _IMAGE_PROCESSORS[model_type].rpartition(".")
    load: Any = getattr(importlib.import_module(f"transformers.models.{module}"), name)
    try:
        return load.from_pretrained(folder, local_files_only=True, **settings)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"the model's image processor cannot be read: {str(error).splitlines()[0]}",
            where=str(folder),
            remedy="copy the processor's files from the model this one was made from",
        ) from error


def kept_files(folder: Path, settings: Mapping[str, Any]) -> dict[str, bytes]:
    """What AutoProcessor reads in `folder`, for checkpoints, with these settings for images."""
    found = {
        name: (folder / name).read_bytes()
        for name in _folder.PROCESSORS
        if (folder / name).is_file()
    }
    if _folder.IMAGE_PROCESSOR in found:
        own = json.loads(found[_folder.IMAGE_PROCESSOR])
        found[_folder.IMAGE_PROCESSOR] = _written({**own, **settings})
    if _folder.PROCESSOR in found:
        whole = json.loads(found[_folder.PROCESSOR])
        if isinstance(nested := whole.get("image_processor"), dict):
            whole["image_processor"] = {**nested, **settings}
        found[_folder.PROCESSOR] = _written(whole)
    return found


def _written(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
