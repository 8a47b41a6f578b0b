"""Reading a checkpoint folder in Hugging Face format, and saying what is wrong with it.

A checkpoint is refused when it is another architecture, other sizes, incomplete or damaged; nothing
is ever filled up with fresh weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vexp.errors import CheckpointError
from vexp.policy.policy import no_progress_bars

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Settings of the model classes that decide neither the shapes nor the function of the weights.
_FREE = ("dtype", "torch_dtype", "transformers_version", "architectures", "initializer_range",
         "use_cache", "_name_or_path", "max_position_embeddings", "output_attentions",
         "output_hidden_states", "return_dict", "chunk_size_feed_forward")  # fmt: skip
_REMEDY = "choose a checkpoint of this backbone, or set the backbone's fields to the checkpoint's"


def load(folder: Path, expected: PreTrainedConfig) -> Any:
    """The model in `folder`, in float32 on the CPU.

    Raises:
        CheckpointError: if it is missing, damaged, or not what `expected` describes.
    """
    check_architecture(folder, expected)
    check_weights_file(folder / "model.safetensors")
    return read_model(folder)


def read_model(folder: Path, dtype: str = "float32") -> Any:
    """The same from a folder whose files were checked, in any precision.

    Raises:
        CheckpointError: if weights are missing, unknown or of other sizes.
    """
    from transformers import AutoModelForImageTextToText

    model_class: Any = AutoModelForImageTextToText
    with no_progress_bars():
        model, report = model_class.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # they are reported below, all at once
            output_loading_info=True,
        )
    check_report(folder, report)
    return model


def configuration(folder: Path) -> PreTrainedConfig:
    """The model's configuration in a folder.

    Raises:
        CheckpointError: if transformers cannot make sense of it.
    """
    from transformers import AutoConfig

    load: Any = AutoConfig
    try:
        found: PreTrainedConfig = load.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # its checks of values raise errors of many kinds
        raise CheckpointError(
            f"transformers cannot use the model's configuration: {str(error).splitlines()[0]}",
            where=str(folder / "config.json"),
            remedy="copy or download the model again",
        ) from error
    return found


def tokenizer(folder: Path, like: Any) -> Any:
    """The tokenizer in `folder`; its ids have to be those the backbone's own tokenizer gives.

    Raises:
        CheckpointError: if it is missing or damaged, or has another vocabulary.
    """
    from transformers import PreTrainedTokenizerFast

    for name in ("tokenizer.json", "tokenizer_config.json"):
        _read_json(folder / name)
    try:
        found = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises plain Exception for a damaged file
        raise CheckpointError(
            f"the checkpoint's tokenizer cannot be read: {error}", where=str(folder)
        ) from error
    if found.get_vocab() != like.get_vocab():
        raise CheckpointError(
            f"the checkpoint's tokenizer ({len(found)} tokens) is not the backbone's "
            f"({len(like)} tokens)",
            where=str(folder / "tokenizer.json"),
            remedy=_REMEDY,
        )
    return found


def check_architecture(folder: Path, expected: PreTrainedConfig) -> None:
    """Compare config.json with the architecture the run's backbone describes."""
    content = _read_json(folder / "config.json")
    found_type, expected_type = content.get("model_type"), expected.model_type
    if found_type != expected_type:
        raise CheckpointError(
            f"the checkpoint is a {found_type!r}, the backbone is a {expected_type!r}",
            where=str(folder / "config.json"),
            remedy=_REMEDY,
        )
    try:
        found = type(expected)(**content).to_dict()
    except Exception as error:  # its checks of values raise errors of many kinds
        raise CheckpointError(
            f"config.json of the checkpoint is damaged: {str(error).strip().splitlines()[0]}",
            where=str(folder / "config.json"),
            remedy=_REMEDY,
        ) from error
    differences = sorted(_differences(found, expected.to_dict()), key=len)  # plain ones first
    if differences:
        shown = "; ".join(differences[:6]) + ("; …" if len(differences) > 6 else "")
        raise CheckpointError(
            f"the checkpoint is another {expected_type!r} than the backbone: {shown}",
            where=str(folder / "config.json"),
            remedy=_REMEDY,
        )


def check_weights_file(path: Path) -> None:
    """Open a safetensors file and check that its header and its length fit."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(
            "the checkpoint has no weights", where=str(path), remedy="choose a complete checkpoint"
        )
    try:
        with safe_open(path, "pt") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"the checkpoint's weights are damaged: {error}",
            where=str(path),
            remedy="use another checkpoint; this file was cut off or overwritten",
        ) from error


def check_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Refuse what `from_pretrained` would only warn about: missing, unknown and misfit weights."""
    wrong = [
        f"{kind.removesuffix('_keys')}: {', '.join(sorted(str(key) for key in report[kind])[:3])}"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if report.get(kind)
    ]
    if wrong:
        raise CheckpointError(
            f"the checkpoint's weights do not fit its architecture ({'; '.join(wrong)})",
            where=str(folder / "model.safetensors"),
            remedy=_REMEDY,
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, RecursionError, ValueError) as error:
        what = "does not exist" if isinstance(error, FileNotFoundError) else "cannot be read"
        raise CheckpointError(
            f"{path.name} of the checkpoint {what}",
            where=str(path),
            remedy="choose a folder in Hugging Face format, as training writes it",
        ) from error
    if not isinstance(content, dict):
        what = f"{path.name} of the checkpoint is not a JSON object"
        raise CheckpointError(what, where=str(path))
    return content


def _differences(
    found: Mapping[str, Any], expected: Mapping[str, Any], path: str = ""
) -> Iterator[str]:
    for key in sorted(found.keys() | expected.keys()):
        left, right = found.get(key), expected.get(key)
        if key in _FREE or left == right:
            continue
        if isinstance(left, dict) and isinstance(right, dict):
            yield from _differences(left, right, f"{path}{key}.")
        else:
            yield f"{path}{key} is {left!r} in the checkpoint and {right!r} in the backbone"
