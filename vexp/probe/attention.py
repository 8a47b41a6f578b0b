"""Reading attention on image tokens while a model keeps its fast kernel.

transformers sends every layer's queries and keys, after RoPE, through a registered attention
function. Ours calls the kernel that the user asked for and, in chosen layers and for chosen query
rows, also computes the logits of the image keys and the row's log-sum-exp over all keys. Two
softmaxes follow from that without a full attention map: over all keys, exp(logits - lse), and over
the image keys alone, softmax(logits). Everything is differentiable.

Usage, with any transformers model whose attention goes through that registry::

    model.set_attn_implementation({"text_config": register("sdpa")})
    probe = Probe(layers={4}, image_index=index, image_mask=mask, lse=True)
    model(**inputs, probe=probe)
    probe.found[4].logits  # [row, head, query, image token]
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

PREFIX = "vexp_probe_"  # of the names under which probed kernels are registered
MASK = "prepared_mask"  # keyword under which a mask passes by transformers, see `prepared`
# (queries, positions) -> log-sum-exps over all keys, and over the pass's own or None
LseOf = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
ROWS_AT_ONCE = 64  # query rows whose logits are held at once when a probe reads all of them


@dataclass(frozen=True)
class ImageLogits:
    """Attention logits of some queries on the image tokens; -inf where there is no image token."""

    logits: Tensor  # [row, head, query, image token] float32
    lse: Tensor | None  # [row, head, query] log-sum-exp over all keys; None unless asked for
    start: int  # first query position; meaningful when all queries are read
    # [row, head, query] log-sum-exp over the keys of the pass itself, without those of the prefix
    # it continues; None where nothing tells the two apart
    own_lse: Tensor | None = None


@dataclass
class Probe:
    """What to read in one forward pass, and what was read.

    `image_index` holds the positions of the image tokens among the keys: the whole sequence, a
    shared prefix, or a cross-attention layer's keys. Every `len(rows) / len(image_index)` rows in a
    row share one of them. With `consume`, pieces of at most `ROWS_AT_ONCE` queries are handed over
    as they come and nothing is kept.
    """

    layers: Collection[int]
    image_index: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.int64))
    # [key group, image token]; image_index holds anything where image_mask is false
    image_mask: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.bool))
    rows: Tensor | None = None  # [row, query] int64 positions of queries to read; None: all
    lse: bool = False
    consume: Callable[[int, ImageLogits], None] | None = None
    found: dict[int, ImageLogits] = field(default_factory=dict)

    def read(
        self,
        layer: int,
        query: Tensor,  # [row, head, query, head size]
        keys: Tensor,  # [key group, kv head, key, head size] that the image tokens are among
        scaling: float,
        lse_of: LseOf | None = None,
    ) -> None:
        """Take what is asked for from one layer.

        `lse_of` gives the log-sum-exps over all keys, and over the pass's own (or None), of queries
        [row, head, query, head size] at positions [row or 1, query].
        """
        if self.lse and lse_of is None:
            raise ValueError("this kernel has no log-sum-exp that a gradient could flow through")
        place = self.image_index[:, None, :, None].expand(-1, keys.shape[1], -1, keys.shape[3])
        image_keys = keys.gather(2, place)
        padded = not bool(self.image_mask.all())
        for start, chosen, positions in self._pieces(query):
            logits = grouped_logits(chosen, image_keys, scaling)
            if padded:
                here = self.image_mask.repeat_interleave(len(query) // len(keys), dim=0)
                logits = logits.masked_fill(~here[:, None, None], -torch.inf)
            lse, own = lse_of(chosen, positions) if self.lse and lse_of else (None, None)
            piece = ImageLogits(logits, lse, start, own)
            if self.consume is not None:
                self.consume(layer, piece)
            else:
                # A recomputation for gradient checkpointing comes second and is thrown away.
                self.found.setdefault(layer, piece)

    def _pieces(self, query: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        count = query.shape[2]
        if self.rows is not None:
            place = self.rows[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[3])
            yield 0, query.gather(2, place), self.rows
            return
        size = count if self.consume is None else ROWS_AT_ONCE
        for start in range(0, count, size):
            end = min(start + size, count)
            yield (
                start,
                query[:, :, start:end],
                torch.arange(start, end, device=query.device).unsqueeze(0),
            )


def grouped_logits(query: Tensor, keys: Tensor, scaling: float) -> Tensor:
    """Scaled products [row, head, query, key] in float32; consecutive rows may share keys.

    query [row, head, query, head size], keys [key group, kv head, key, head size]; heads are
    grouped over kv heads as transformers' `repeat_kv` groups them.
    """
    rows, heads, queries, size = query.shape
    groups, kv_heads, count, _ = keys.shape
    share, per_kv = rows // groups, heads // kv_heads
    # Products in float32: in bfloat16 a logit of 10 is off by 0.02, and a weight by 2 %.
    query, keys = query.float(), keys.float()
    stacked = query.reshape(groups, share, kv_heads, per_kv, queries, size).transpose(1, 2)
    products = stacked.reshape(groups, kv_heads, -1, size) @ keys.transpose(-1, -2)
    products = products.view(groups, kv_heads, share, per_kv, queries, count).transpose(1, 2)
    return products.reshape(rows, heads, queries, count) * scaling


def masked_lse(
    keys: Tensor, mask: Tensor | None, scaling: float, causal: bool, queries: int
) -> LseOf:
    """The log-sum-exps over `keys` under an attention mask in any of the kernels' forms.

    Over all of them, and over the last `queries`, which are the pass's own where there are more.
    `mask` is boolean or additive [row, 1 or head, query, key], flash attention's padding mask
    [row, key], or None, which means causal (aligned on the right) where `causal` says so.
    """

    before = keys.shape[2] - queries

    def lse(query: Tensor, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        logits = grouped_logits(query, keys, scaling)
        if mask is None or mask.ndim == 2:
            last = positions + before
            if causal:
                seen = torch.arange(keys.shape[2], device=keys.device) <= last.unsqueeze(-1)
                logits = logits.masked_fill(~seen.unsqueeze(1), -torch.inf)
            if mask is not None:
                logits = logits.masked_fill(~mask[:, None, None].bool(), -torch.inf)
        else:
            rows = positions.expand(len(query), -1)[:, None, :, None]
            bias = mask.expand(len(query), *mask.shape[1:])[..., : keys.shape[2]]
            bias = bias.gather(2, rows.expand(-1, bias.shape[1], -1, bias.shape[3]))
            if bias.dtype == torch.bool:
                logits = logits.masked_fill(~bias, -torch.inf)
            else:
                logits = logits + bias
        own = logits[..., before:].logsumexp(-1) if before > 0 else None
        return logits.logsumexp(-1), own

    return lse


def prepared(mask: Tensor | None) -> dict[str, Any]:
    """Arguments for a decoder whose layers are to take `mask` as it is, in its kernel's own form.

    Left alone, transformers makes a mask from the one it is given, in each family in another way,
    and where there is none. A 4-D one it does not look at; ours reaches the attention function by
    a keyword that both of ours know.
    """
    return {"attention_mask": torch.empty(0, 0, 0, 0), MASK: mask}


def crosses(module: Any) -> bool:
    """Whether an attention module looks at an image, and not at the text (Llama-3.2-Vision)."""
    return module.layer_idx in getattr(module.config, "cross_attention_layers", ())


def cross_attention(
    query: Tensor,  # [row, head, query, head size]
    key: Tensor,  # [prompt, kv head, key, head size] of the prompts' images
    value: Tensor,
    allowed: Tensor,  # [prompt, 1, query or 1, key] bool
    scaling: float,
) -> Tensor:  # [row, query, head, head size]
    """Attention to images; as many consecutive rows belong to each prompt.

    Whatever the kernel of the text: none but torch's own takes such a mask. A prompt without an
    image may look at nothing; it looks at all of its values, which are 0.
    """
    rows, heads, queries, size = query.shape
    grouped = query.transpose(1, 2).reshape(len(key), -1, heads, size).transpose(1, 2)
    found = torch.nn.functional.scaled_dot_product_attention(
        grouped.to(value.dtype),
        key.to(value.dtype),
        value,
        attn_mask=allowed | ~allowed.any(dim=-1, keepdim=True),
        scale=scaling,
        enable_gqa=True,
    )
    return found.transpose(1, 2).reshape(rows, queries, heads, size)


def register(kernel: str) -> str:
    """Make the probed form of a transformers kernel known (idempotent); returns its name.

    The kernel's own mask function goes under the same name: without one transformers passes no mask
    at all, and padding is attended to, silently.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    name = PREFIX + kernel
    AttentionInterface.register(name, functools.partial(_forward, kernel))
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[kernel])
    return name


def _forward(
    kernel: str,
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *arguments: Any,
    probe: Probe | None = None,
    **options: Any,
) -> Any:
    prepared_mask = options.pop(MASK, attention_mask)
    if crosses(module) and attention_mask is not None and attention_mask.dtype == torch.bool:
        scaling = options["scaling"]
        return cross_attention(query, key, value, attention_mask, scaling), None
    attention_mask = prepared_mask
    if probe is not None and module.layer_idx in probe.layers:
        scaling = options.get("scaling") or module.scaling
        causal = bool(getattr(module, "is_causal", False))
        lse = masked_lse(key, attention_mask, scaling, causal, query.shape[2])
        probe.read(module.layer_idx, query, key, scaling, lse)
    with _named(module.config, kernel):
        call = _kernel(kernel, module)
        return call(module, query, key, value, attention_mask, *arguments, **options)


@contextlib.contextmanager
def _named(config: Any, kernel: str) -> Iterator[None]:
    """Give a model's config the kernel's own name: flash attention is loaded by it."""
    config._attn_implementation_internal = kernel
    try:
        yield
    finally:
        config._attn_implementation_internal = PREFIX + kernel


def _kernel(name: str, module: Any) -> Any:
    """The attention function that transformers would call; eager ones live in the model's file."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if name == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS[name]
