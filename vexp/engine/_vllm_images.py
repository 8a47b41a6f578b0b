"""One image as vLLM's models take it when everything is processed already: a function per family.

Nothing here needs torch or vLLM until it is called: composing a config reads who is served.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

IMAGE = "image"  # what vLLM calls this modality

# Arguments of vLLM's model, and how each is shared out among images.
Arguments = tuple[dict[str, "Tensor"], dict[str, Any]]


@dataclass(frozen=True)
class Processed:
    """An image as the trainer has it."""

    pieces: Tensor  # [piece, ...] patches or tiles
    grid: Tensor  # [1, 3] pieces along time, height and width
    token_id: int  # of the tokens that stand for it in its prompt


def _qwen(image: Processed) -> Arguments:
    """Patches, and how many there are along time, height and width."""
    from vllm.multimodal.inputs import MultiModalFieldConfig as Field

    return {"pixel_values": image.pieces, "image_grid_thw": image.grid}, {
        "pixel_values": Field.flat_from_sizes(IMAGE, image.grid.prod(-1)),
        "image_grid_thw": Field.batched(IMAGE, keep_on_cpu=True),
    }


def _internvl(image: Processed) -> Arguments:
    """Tiles, how many there are, and the token that stands for them."""
    import torch
    from vllm.multimodal.inputs import MultiModalFieldConfig as Field

    count = torch.tensor([len(image.pieces)])
    return {
        "pixel_values": image.pieces,
        "image_num_patches": count,
        "image_token_id": torch.tensor(image.token_id),
    }, {
        "pixel_values": Field.flat_from_sizes(IMAGE, count),
        "image_num_patches": Field.batched(IMAGE, keep_on_cpu=True),
        "image_token_id": Field.shared(IMAGE, 1, keep_on_cpu=True),
    }


def _smolvlm(image: Processed) -> Arguments:
    """Tiles, which of their pixels count (all do), and how many tiles there are."""
    import torch
    from vllm.multimodal.inputs import MultiModalFieldConfig as Field

    # vLLM takes a tile of zeros for padding and leaves it out; ours is black, and the policy sees
    # it. The smallest number in one of its places keeps it, and is rounded away.
    tiles = image.pieces.clone()
    tiles[(tiles == 0).flatten(1).all(1), 0, 0, 0] = torch.finfo(tiles.dtype).tiny
    count = torch.tensor([len(tiles)])
    return {
        "pixel_values": tiles,
        "pixel_attention_mask": torch.ones_like(tiles[:, 0], dtype=torch.bool),
        "num_patches": count,
    }, {
        "pixel_values": Field.flat_from_sizes(IMAGE, count),
        "pixel_attention_mask": Field.flat_from_sizes(IMAGE, count),
        "num_patches": Field.batched(IMAGE, keep_on_cpu=True),
    }


# By the `model_type` of a transformers configuration: the families that are served.
FAMILIES: Mapping[str, Callable[[Processed], Arguments]] = {
    "qwen2_vl": _qwen,
    "qwen2_5_vl": _qwen,
    "qwen3_vl": _qwen,
    "internvl": _internvl,
    "smolvlm": _smolvlm,
}


def request(family: str, tokens: Sequence[int], image: Processed) -> Any:
    """A prompt with an image, as a request that vLLM processes no further."""
    from vllm.inputs.engine import mm_input
    from vllm.multimodal.inputs import MultiModalKwargsItems

    arguments = MultiModalKwargsItems.from_hf_inputs(*FAMILIES[family](image))
    place = _place(tokens, image.token_id)
    return mm_input(list(tokens), arguments, {IMAGE: [_hash(image)]}, {IMAGE: [place]})


def _place(tokens: Sequence[int], token_id: int) -> Any:
    """Where an image's tokens stand in its prompt; the names of its tiles may stand in between."""
    import torch
    from vllm.multimodal.inputs import PlaceholderRange

    own = torch.tensor(tokens) == token_id
    first, last = own.nonzero().flatten()[[0, -1]].tolist()
    between = own[first : last + 1]
    return PlaceholderRange(first, len(between), None if between.all() else between)


def _hash(image: Processed) -> str:
    digest = hashlib.blake2b(image.pieces.contiguous().numpy().tobytes(), digest_size=16)
    digest.update(image.grid.contiguous().numpy().tobytes())
    return digest.hexdigest()
