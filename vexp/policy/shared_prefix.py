"""Attention of responses to a prefix they share, without copying the prefix for each of them.

A response token attends to its prompt and to its own response. The two parts are computed apart:
all responses of a group against one copy of their prompt's keys, and each response against itself;
then merged by their log-sum-exps, which is exact (Juravsky et al., "Hydragen", arXiv:2402.05099).
The backward pass uses the same split: a flash backward kernel recomputes each part's probabilities
from the log-sum-exp of the whole, and so returns that part's share of the exact gradient.

Registered with transformers under `NAME`, for the language model on a CPU, where torch's flash
kernel returns log-sum-exps, takes grouped key heads, and broadcasts a mask over queries. Elsewhere
`vexp.policy.prefix` copies the prefix and uses the kernel the user asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vexp.probe.attention import MASK, LseOf, Probe, cross_attention, crosses, masked_lse

NAME = "vexp_shared_prefix"


@dataclass(frozen=True)
class SharedPrefix:
    """Keys and values of prefixes, each followed by the same number of consecutive rows."""

    keys: list[Tensor]  # of each layer: [prefix, kv head, position, head size]
    values: list[Tensor]
    bias: Tensor | None  # [prefix, 1, 1, position]: -inf on padding; None when there is none

    def rows(self, prefixes: Tensor) -> SharedPrefix:
        """Some of the prefixes."""
        return SharedPrefix(
            keys=[layer[prefixes] for layer in self.keys],
            values=[layer[prefixes] for layer in self.values],
            bias=None if self.bias is None else self.bias[prefixes],
        )


def register() -> None:
    """Make the attention function known to transformers (idempotent).

    The mask function has to be registered under the same name: without it transformers passes no
    mask at all, and padding is attended to, silently.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def forward(
    module: Any,
    query: Tensor,  # [row, head, query, head size]
    key: Tensor,  # [row, kv head, key, head size]
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    shared_prefix: SharedPrefix | None = None,
    probe: Probe | None = None,
    causal: bool = False,
    **options: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in every layer; returns [row, query, head, head size].

    With a shared prefix, the keys given are those of the rows' own responses: as many as queries
    (then causal), or those of all steps so far for a single query. `causal`: rows begin with their
    own prompt, nothing is padded on the left, and no gradient is wanted.
    """
    if crosses(module) and attention_mask is not None:
        return cross_attention(query, key, value, attention_mask, scaling), None
    if causal:
        query, key = query.to(value.dtype), key.to(value.dtype)
        return _flash(query, key, value, 0.0, True, scale=scaling)[0].transpose(1, 2), None
    probed = probe if probe is not None and module.layer_idx in probe.layers else None
    if shared_prefix is None:
        mask = options.get(MASK, attention_mask)
        if probed:
            lse_of = masked_lse(key, mask, scaling, False, query.shape[2])
            probed.read(module.layer_idx, query, key, scaling, lse_of)
        output = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scaling, enable_gqa=True
        )
        return output.transpose(1, 2), None
    keys, values = shared_prefix.keys[module.layer_idx], shared_prefix.values[module.layer_idx]
    # RoPE leaves queries and keys in float32 where autocast computes the rest in bfloat16.
    query, key = query.to(value.dtype), key.to(value.dtype)
    arguments = (query, key, value, keys, values, shared_prefix.bias, scaling)
    if torch.is_grad_enabled():
        output = _SharedPrefixAttention.apply(*arguments)  # type: ignore[no-untyped-call]
        lses = None  # only without gradients: the kernel's carry none
    else:
        output, *lses = _both_parts(*arguments)
    if probed:
        probed.read(module.layer_idx, query, keys, scaling, _picked_from(lses))
    return output.transpose(1, 2), None


def _picked_from(lses: Sequence[Tensor] | None) -> LseOf | None:
    """The probe's question for log-sum-exps of some rows, answered from those of all rows."""
    if lses is None:
        return None
    everywhere, own = (lse.float() for lse in lses)

    def pick(_: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        places = positions[:, None].expand(len(own), own.shape[1], -1)
        return everywhere.gather(2, places), own.gather(2, places)

    return pick


_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class _SharedPrefixAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        prefix_key: Tensor,
        prefix_value: Tensor,
        bias: Tensor | None,
        scaling: float,
    ) -> Tensor:
        output, lse, _ = _both_parts(query, key, value, prefix_key, prefix_value, bias, scaling)
        ctx.save_for_backward(query, key, value, prefix_key, prefix_value, bias, output, lse)
        ctx.scaling = scaling
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, prefix_key, prefix_value, bias, output, lse = ctx.saved_tensors
        gradient = gradients[0]
        d_query, d_key, d_value = _flash_backward(
            gradient, query, key, value, output, lse, 0.0, query.shape[2] > 1, scale=ctx.scaling
        )
        groups = len(prefix_key)
        d_grouped, d_prefix_key, d_prefix_value = _flash_backward(
            *(_by_prefix(t, groups) for t in (gradient, query)),
            prefix_key,
            prefix_value,
            *(_by_prefix(t, groups) for t in (output, lse)),
            0.0,
            False,
            attn_mask=bias,
            scale=ctx.scaling,
        )
        d_query = d_query + _by_row(d_grouped, len(query))
        return d_query, d_key, d_value, d_prefix_key, d_prefix_value, None, None


def _both_parts(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    bias: Tensor | None,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:  # [row, head, query, head size], twice [row, head, query]
    """Attention to prefix and response, merged; its log-sum-exp, and that over the response."""
    own, own_lse = _flash(query, key, value, 0.0, query.shape[2] > 1, scale=scaling)
    grouped = _by_prefix(query, len(prefix_key))
    shared, shared_lse = _flash(
        grouped, prefix_key, prefix_value, 0.0, False, attn_mask=bias, scale=scaling
    )
    shared, shared_lse = _by_row(shared, len(query)), _by_row(shared_lse, len(query))
    # Each part is normalised by itself; the prefix's share of the whole is the sigmoid of the
    # difference of the log-sum-exps.
    share = torch.sigmoid(shared_lse - own_lse).unsqueeze(-1).to(own.dtype)
    return torch.lerp(own, shared, share), torch.logaddexp(own_lse, shared_lse), own_lse


def _by_prefix(tensor: Tensor, groups: int) -> Tensor:
    """[row, head, query, ...] -> [prefix, head, rows of the prefix x query, ...].

    A view where queries lie before heads in memory, as projections leave them.
    """
    rows, heads, queries, *rest = tensor.shape
    return (
        tensor.transpose(1, 2)
        .reshape(groups, rows // groups * queries, heads, *rest)
        .transpose(1, 2)
    )


def _by_row(tensor: Tensor, rows: int) -> Tensor:
    """The inverse of `_by_prefix`."""
    groups, heads, queries, *rest = tensor.shape
    return (
        tensor.transpose(1, 2).reshape(rows, queries * groups // rows, heads, *rest).transpose(1, 2)
    )
