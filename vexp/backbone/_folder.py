"""A model's folder in Hugging Face format, read without loading it: what it is, and what is wrong.

Only JSON and the headers of safetensors files are read; nothing here needs torch.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vexp.errors import Problem
from vexp.registry import REGISTRY

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PROCESSOR = "processor_config.json"
IMAGE_PROCESSOR = "preprocessor_config.json"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
TEMPLATES = ("chat_template.jinja", "chat_template.json")
EMITTED = "emits.json"  # tokens that responses of a checkpoint of ours may contain
# What AutoProcessor reads beside the tokenizer; a checkpoint keeps them.
PROCESSORS = (PROCESSOR, IMAGE_PROCESSOR, "video_preprocessor_config.json", *TEMPLATES)

# How the names of the image processors begin that belong to an architecture.
IMAGE_PROCESSORS = {
    "qwen2_vl": ("Qwen2VL",),
    "qwen2_5_vl": ("Qwen2VL", "Qwen2_5_VL"),
    "qwen3_vl": ("Qwen2VL", "Qwen3VL"),
    "internvl": ("GotOcr2",),
    "smolvlm": ("SmolVLM", "Idefics3"),
    "mllama": ("Mllama",),
}
# Whose image processor cuts tiles of the size that the vision tower takes.
TILED = ("internvl", "smolvlm", "mllama")

LONGEST_HEADER = 100_000_000  # bytes, as the safetensors format limits it
SAMPLES = 64  # places of each weights file that enter its fingerprint
SAMPLE = 1024  # bytes at each
_VOLATILE = ("_name_or_path", "transformers_version")
_FORMAT = "name a folder as `save_pretrained` or `hf download` writes it"

Stamp = tuple[tuple[str, int, int], ...]  # name, size and time of change of each file


def read(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where there is none.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path.name} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is damaged: it is not a JSON object")
    return content


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a configuration; older ones are flat."""
    found = config.get("text_config")
    return found if isinstance(found, dict) else config


def image_settings(folder: Path) -> dict[str, Any]:
    """Settings of the image processor, from either of the files that may have them.

    Raises:
        ValueError: if one is damaged.
    """
    nested = read(folder / PROCESSOR).get("image_processor")
    return nested if isinstance(nested, dict) else read(folder / IMAGE_PROCESSOR)


def decoder_layers(folder: Path) -> int | None:
    """Decoder layers as config.json has them; None where it does not say."""
    try:
        found = text_config(read(folder / CONFIG)).get("num_hidden_layers")
    except ValueError:
        return None
    return found if isinstance(found, int) else None


def problems(folder: Path, model_type: str) -> tuple[Problem, ...]:
    """Everything that would keep a model of this type from being loaded from `folder`."""
    return _problems(folder, _stamp(folder), model_type)


def fingerprint(folder: Path) -> str:
    """A hash of what the model is, wherever the folder lies.

    Of the weights, headers, sizes and 64 KiB of each file count: two fine-tuned models differ in
    these although their headers are equal, and reading all of 60 GB would make planning wait.
    """
    return _fingerprint(folder, _stamp(folder))


def weights_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the weights; may name some that do not exist.

    Raises:
        ValueError: if their index is damaged.
    """
    if not (folder / INDEX).is_file():
        return [folder / WEIGHTS]
    names = read(folder / INDEX).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{INDEX} is damaged: it has no weight_map")
    return [folder / Path(name).name for name in sorted(set(names.values()))]


def parameters(folder: Path) -> int:
    """How many weights a folder holds, as the headers of its files say."""
    shapes = (
        entry["shape"]
        for path in weights_files(folder)
        for name, entry in json.loads(_header(path)).items()
        if name[:2] != "__"
    )
    return sum(map(math.prod, shapes))


def damage(path: Path) -> str | None:
    """What is wrong with a safetensors file, as far as its header and its length tell."""
    try:
        size = path.stat().st_size
        header = json.loads(_header(path))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name[:2] != "__"]
        expected = 8 + int.from_bytes(_first(path, 8), "little") + max(ends, default=0)
    except FileNotFoundError:
        return "is missing"
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return "has a damaged header"
    if size != expected:
        return f"has {size} bytes instead of {expected}: it was cut off or overwritten"
    return None


def _stamp(folder: Path) -> Stamp:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    states = [path.stat() for path in files]
    return tuple(
        (path.name, state.st_size, state.st_mtime_ns)
        for path, state in zip(files, states, strict=True)
    )


@functools.lru_cache(maxsize=64)
def _problems(folder: Path, _: Stamp, model_type: str) -> tuple[Problem, ...]:
    try:
        config = read(folder / CONFIG)
    except ValueError as error:
        return (Problem(str(error), where=str(folder / CONFIG), remedy=_FORMAT),)
    if not config:
        return (Problem(f"there is no {CONFIG}", where=str(folder), remedy=_FORMAT),)
    if config.get("model_type") != model_type:
        what = f"the model is a {config.get('model_type')!r}, the backbone is a {model_type!r}"
        remedy = _backbones_of(config.get("model_type"))
        return (Problem(what, where=str(folder / CONFIG), remedy=remedy),)
    return (
        *_unsupported(folder, config),
        *_of_weights(folder),
        *_of_tokenizer(folder),
        *_of_processor(folder, config),
    )


def _backbones_of(model_type: Any) -> str:
    """What to do about a model of this architecture."""
    names = [
        name
        for name in REGISTRY.names("backbone")
        if getattr(REGISTRY.get("backbone", name), "model_type", None) == model_type
        and hasattr(REGISTRY.get("backbone", name), "path")
    ]
    if names:
        return f"choose backbone={' or '.join(names)} for it, or another model"
    return "vexp has no backbone of its architecture; choose another model"


def _unsupported(folder: Path, config: Mapping[str, Any]) -> Iterator[Problem]:
    if text_config(config).get("use_sliding_window"):
        what = "the model attends within sliding windows (use_sliding_window), which vexp does not"
        yield Problem(what, where=str(folder / CONFIG), remedy="choose another model")


def _of_weights(folder: Path) -> Iterator[Problem]:
    remedy = "copy or download the model again; only safetensors are read, never pickles"
    try:
        files = weights_files(folder)
    except ValueError as error:
        yield Problem(str(error), where=str(folder / INDEX), remedy=remedy)
        return
    for path in files:
        if (wrong := damage(path)) is not None:
            yield Problem(f"{path.name} {wrong}", where=str(path), remedy=remedy)


def _of_tokenizer(folder: Path) -> Iterator[Problem]:
    remedy = "copy the tokenizer's files from the model this one was made from"
    there = [(folder / name).is_file() for name in TOKENIZER]
    if not (there[0] or all(there[2:])):
        what = "there is no tokenizer: neither tokenizer.json nor vocab.json with merges.txt"
        yield Problem(what, where=str(folder), remedy=remedy)
    try:
        settings = read(folder / TOKENIZER[1])
    except ValueError as error:
        yield Problem(str(error), where=str(folder / TOKENIZER[1]), remedy=remedy)
        return
    if "chat_template" not in settings and not any((folder / n).is_file() for n in TEMPLATES):
        what = "there is no chat template: a question could not be put to the model"
        yield Problem(what, where=str(folder), remedy=remedy)


def _of_processor(folder: Path, config: Mapping[str, Any]) -> Iterator[Problem]:
    remedy = "copy the processor's files from the model this one was made from"
    try:
        settings, processor = image_settings(folder), read(folder / PROCESSOR)
    except ValueError as error:
        yield Problem(str(error), where=str(folder), remedy=remedy)
        return
    if not settings:
        what = f"there is no image processor: neither {IMAGE_PROCESSOR} nor one in {PROCESSOR}"
        yield Problem(what, where=str(folder), remedy=remedy)
        return
    for name, found, expected in _misfits(settings, processor, config):
        what = f"the image processor does not fit the model: {name} is {found}, not {expected}"
        yield Problem(what, where=str(folder), remedy=remedy)


def _misfits(
    settings: Mapping[str, Any], processor: Mapping[str, Any], config: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Settings that contradict the model's: name, what it is, what it has to be."""
    family = str(config["model_type"])
    kind, expected = settings.get("image_processor_type"), IMAGE_PROCESSORS.get(family)
    if isinstance(kind, str) and expected and not kind.startswith(expected):
        yield "image_processor_type", kind, expected[0]
        return
    vision = config.get("vision_config")
    model = vision if isinstance(vision, dict) else {}
    tile = settings.get("max_image_size") or settings.get("size") or {}
    for name, found, wanted in (
        ("patch_size", settings.get("patch_size"), model.get("patch_size")),
        ("merge_size", settings.get("merge_size"), model.get("spatial_merge_size")),
        (
            "the size of a tile",
            tile.get("height") or tile.get("longest_edge") if family in TILED else None,
            _side(model.get("image_size")),
        ),
        (
            "image_seq_length",
            processor.get("image_seq_length"),
            config.get("image_seq_length"),
        ),
    ):
        if found is not None and wanted is not None and found != wanted:
            yield name, found, wanted


def _side(size: Any) -> Any:
    return size[0] if isinstance(size, list) else size


@functools.lru_cache(maxsize=64)
def _fingerprint(folder: Path, _: Stamp) -> str:
    digest = hashlib.sha256()
    config = {key: value for key, value in read(folder / CONFIG).items() if key not in _VOLATILE}
    digest.update(json.dumps(config, sort_keys=True).encode())
    for path in weights_files(folder):
        _add_weights(digest, path)
    for name in (*TOKENIZER, *PROCESSORS, EMITTED):
        if (folder / name).is_file():
            digest.update(f"\n{name}\n".encode() + (folder / name).read_bytes())
    return digest.hexdigest()


def _add_weights(digest: Any, path: Path) -> None:
    size = path.stat().st_size
    digest.update(f"\n{size}\n".encode() + _header(path))
    with path.open("rb") as file:
        for place in range(SAMPLES):
            file.seek(max(0, size - SAMPLE) * place // (SAMPLES - 1))
            digest.update(file.read(SAMPLE))


def _header(path: Path) -> bytes:
    """The JSON at the start of a safetensors file."""
    length = int.from_bytes(_first(path, 8), "little")
    if not 2 <= length <= LONGEST_HEADER:
        raise ValueError("no safetensors header")
    return _first(path, 8 + length)[8:]


def _first(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        found = file.read(count)
    if len(found) < count:
        raise ValueError("the file is too short")
    return found
