"""What differs by family in vLLM: how its model takes an image that is processed already.

Nothing here needs torch or vLLM until it is called: composing a config reads who is served.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch
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

    count = torch.tensor([len(image.pieces)])
    return {
        "pixel_values": image.pieces,
        "pixel_attention_mask": torch.ones_like(image.pieces[:, 0], dtype=torch.bool),
        "num_patches": count,
    }, {
        "pixel_values": Field.flat_from_sizes(IMAGE, count),
        "pixel_attention_mask": Field.flat_from_sizes(IMAGE, count),
        "num_patches": Field.batched(IMAGE, keep_on_cpu=True),
    }


def _whole_tiles(model: Any, weights: str) -> None:
    """Have vLLM's SmolVLM see tiles as the policy does.

    vLLM takes a black tile, of zeros, for padding and leaves it out. And where a patch lies in its
    tile it finds by a division that rounds: of 27 x 27 patches, as SmolVLM2 has, it moves 53.
    """
    import torch

    inner = model.model
    embeddings = inner.vision_model.embeddings
    places = patch_places(embeddings.num_patches_per_side, getattr(torch, weights))
    places = places.to(embeddings.position_embedding.weight.device)
    plain = inner.image_pixels_to_features

    def seen(pixel_values: Tensor, pixel_attention_mask: Tensor, **_: Any) -> Any:
        own = places.expand(len(pixel_values), -1)
        return plain(pixel_values, pixel_attention_mask, remove_padding=False, position_ids=own)

    inner.image_pixels_to_features = seen


def patch_places(side: int, dtype: torch.dtype) -> Tensor:
    """Rows [side * side] of the table of places, one for each patch of a whole tile.

    As transformers finds them in `SmolVLMVisionEmbeddings`: exactly in float32; with weights in
    bfloat16 some are rounded to a neighbour's.
    """
    import torch

    at = (torch.arange(side, dtype=torch.float32) * (1.0 / torch.tensor(side))).clamp(max=1 - 1e-6)
    bounds = torch.arange(1 / side, 1.0, 1 / side)
    along = torch.bucketize(at.to(dtype), bounds, right=True)
    return (along.unsqueeze(1) * side + along).flatten()


def _as_it_is(model: Any, weights: str) -> None:
    """vLLM's model sees images as the policy does."""


class VllmFamily(NamedTuple):
    """How vLLM serves a family of models."""

    arguments: Callable[[Processed], Arguments]
    # Changes vLLM's model once it is there; `weights` is the precision of the policy's weights.
    adapt: Callable[[Any, str], None] = _as_it_is


# By the `model_type` of a transformers configuration: the families that are served.
FAMILIES: Mapping[str, VllmFamily] = {
    "qwen2_vl": VllmFamily(_qwen),
    "qwen2_5_vl": VllmFamily(_qwen),
    "qwen3_vl": VllmFamily(_qwen),
    "internvl": VllmFamily(_internvl),
    "smolvlm": VllmFamily(_smolvlm, _whole_tiles),
}


def request(family: str, tokens: Sequence[int], image: Processed) -> Any:
    """A prompt with an image, as a request that vLLM processes no further."""
    from vllm.inputs.engine import mm_input
    from vllm.multimodal.inputs import MultiModalKwargsItems

    arguments = MultiModalKwargsItems.from_hf_inputs(*FAMILIES[family].arguments(image))
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
