"""Special tokens that components emit: added to a tokenizer and a model, known again on loading.

A checkpoint names them in `emits.json`. So it can be loaded, and evaluated, without the config that
it was trained with; one without such tokens has no such file.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from vexp.errors import CheckpointError
from vexp.files import read_json
from vexp.policy.policy import EMITS


def recorded(folder: Path) -> tuple[str, ...]:
    """The tokens that responses of this checkpoint may contain, in the order they were added.

    Raises:
        CheckpointError: if the record is damaged.
    """
    path = folder / EMITS
    if not path.exists():
        return ()
    found = read_json(path)
    if not isinstance(found, list) or not all(isinstance(token, str) and token for token in found):
        raise CheckpointError(
            f"{EMITS} of the checkpoint is not a list of tokens",
            where=str(path),
            remedy="use another checkpoint; this file was cut off or overwritten",
        )
    return tuple(found)


def add_to_tokenizer(tokenizer: Any, tokens: Iterable[str]) -> list[str]:
    """Add the tokens that are not known yet as special ones; ids given before stay. Names them."""
    from tokenizers import AddedToken

    known = tokenizer.get_vocab()
    missing = [token for token in tokens if token not in known]
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in missing], True)
    return missing


def add(
    model: Any, tokenizer: Any, emits: Mapping[str, Collection[str]], *, multiple: int = 64
) -> None:
    """Give the model the tokens of `emits` that its tokenizer lacks.

    A new token's rows in embedding and output layer are the means of those of the words given for
    it, as far as the tokenizer has them as one token, or of all its tokens. It takes a spare row of
    the padded embedding. Only where there is none left does the embedding grow, to a `multiple`;
    its further rows are given the same means. Nothing here is random.
    """
    before = len(tokenizer)
    words = {token: _ids(tokenizer, emits[token]) for token in emits}
    missing = add_to_tokenizer(tokenizer, emits)
    if not missing:
        return
    ids = tokenizer.convert_tokens_to_ids(missing)
    rows = model.get_input_embeddings().num_embeddings
    if max(ids) >= rows:
        size = math.ceil((max(ids) + 1) / multiple) * multiple
        # transformers draws the new rows at random, from torch's global generator.
        with torch.random.fork_rng(devices=[]):
            model.resize_token_embeddings(size, mean_resizing=False)
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    weights = list({id(layer.weight): layer.weight for layer in layers}.values())
    with torch.no_grad():
        for weight in weights:
            weight[rows:] = weight[:before].mean(dim=0)
            for token, place in zip(missing, ids, strict=True):
                like = words[token] or list(range(before))
                weight[place] = weight[like].mean(dim=0)


def _ids(tokenizer: Any, words: Iterable[str]) -> list[int]:
    """Ids of the words that are one token: within a sentence, or at the beginning of one."""
    forms = [form for word in words for form in (f" {word}", word, word.capitalize())]
    found = [tokenizer(form, add_special_tokens=False).input_ids for form in forms]
    return sorted({ids[0] for ids in found if len(ids) == 1})
