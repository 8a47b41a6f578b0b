"""Ending a response with its answer: where that is, found while tokens are drawn or afterwards."""

from __future__ import annotations

import dataclasses
import weakref
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vexp.engine.base import Generated, Sampling
from vexp.response.format import CLOSES, states_answer

if TYPE_CHECKING:
    from vexp.policy.policy import Policy

_CLOSING: weakref.WeakKeyDictionary[Policy, dict[str, Tensor]] = weakref.WeakKeyDictionary()


def stated(policy: Policy, tokens: Tensor, mask: Tensor, sampling: Sampling) -> Tensor:
    """Which responses state their answer with their last token; [rollout] bool.

    `tokens` and `mask` are [rollout, token], padded on the right. A response is read as text only
    if the last token can close an answer, which few can.
    """
    found = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    if sampling.stop is None or tokens.shape[1] == 0:
        return found
    last = mask.sum(1).clamp(min=1) - 1
    closing = _closing(policy, sampling.stop)[tokens.gather(1, last.unsqueeze(1)).squeeze(1)]
    rows = closing.nonzero().squeeze(1)
    if len(rows):
        texts = policy.decode(tokens[rows], mask[rows])
        ends = [states_answer(text, sampling.stop) for text in texts]
        found[rows] = torch.tensor(ends, device=tokens.device)
    return found


def cut(policy: Policy, generated: Generated, sampling: Sampling) -> Generated:
    """The responses up to where each first states its answer; for an engine that goes on."""
    if sampling.stop is None:
        return generated
    tokens, mask, finished = generated.tokens, generated.mask.clone(), generated.finished.clone()
    going = torch.ones_like(finished)
    for step in range(tokens.shape[1]):
        rows = (going & generated.mask[:, step]).nonzero().squeeze(1)
        before = generated.mask[rows, : step + 1]
        ended = rows[stated(policy, tokens[rows, : step + 1], before, sampling)]
        mask[ended, step + 1 :] = False
        finished[ended] = True
        going[ended] = False
    width = int(mask.any(0).sum())
    mask = mask[:, :width]
    return dataclasses.replace(
        generated,
        tokens=tokens[:, :width].masked_fill(~mask, policy.pad_id),
        mask=mask,
        logprobs=generated.logprobs[:, :width].masked_fill(~mask, 0.0),
        finished=finished,
    )


def _closing(policy: Policy, stop: str) -> Tensor:  # [vocab] bool
    """The tokens whose spelling has the character that closes an answer."""
    known = _CLOSING.setdefault(policy, {})
    if stop not in known:
        ids = [id_ for text, id_ in policy.tokenizer.get_vocab().items() if CLOSES[stop] in text]
        found = torch.zeros_like(policy.banned)
        found[torch.tensor([id_ for id_ in ids if id_ < len(found)], dtype=torch.int64)] = True
        known[stop] = found
    return known[stop]
