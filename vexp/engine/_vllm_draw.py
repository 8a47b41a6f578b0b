"""How vLLM draws tokens: with the noise of `hf`, from the same distribution. Needs vLLM.

vLLM hands its logits to logits processors before it samples. This one draws the token itself and
leaves it as the only one possible, with its log-prob as its logit; vLLM then takes the largest
logit and, asked for `processed_logits`, reports the log-prob.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from vllm.v1.sample.logits_processor.interface import (
    BatchUpdate,
    LogitsProcessor,
    MoveDirectionality,
)

from vexp.engine._draw import choose
from vexp.engine.base import Sampling
from vexp.policy.log_probs import log_distribution, log_probs_of
from vexp.policy.randomness import uniforms

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEY = "vexp"  # of vLLM's `additional_config`, and of a request's `extra_args`


@dataclass(frozen=True)
class DrawRequest:
    """How one response is drawn: the settings of its batch, and its own noise."""

    sampling: Sampling
    noise: NDArray[np.float64] | None  # [token]; None: greedy
    drawn: list[int]  # its tokens so far; vLLM appends to it

    @classmethod
    def of(cls, arguments: dict[str, Any], drawn: list[int]) -> DrawRequest:
        sampling = Sampling(**arguments["sampling"])
        if sampling.greedy:
            return cls(sampling, None, drawn)
        noise = uniforms(
            sampling.seed,
            sampling.purpose,
            sampling.step,
            [arguments["item"]],
            [arguments["place"]],
            sampling.max_response_length,
        )
        return cls(sampling, noise[0], drawn)


class DrawProcessor(LogitsProcessor):  # type: ignore[misc, unused-ignore]  # vLLM is not always installed
    """Replaces a row's logits by those of a drawn token. All rows are of one call's batch."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        settings = vllm_config.additional_config[KEY]
        vocabulary = vllm_config.model_config.get_vocab_size()
        self.banned = torch.zeros(vocabulary, dtype=torch.bool, device=device)
        self.banned[settings["banned"]] = True
        self.eos_id: int = settings["eos_id"]
        self.requests: dict[int, DrawRequest] = {}  # by row

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        for row in batch_update.removed:
            self.requests.pop(row, None)
        for row, parameters, _, drawn in batch_update.added:
            self.requests[row] = DrawRequest.of(parameters.extra_args[KEY], drawn)
        for one, other, direction in batch_update.moved:
            first, second = self.requests.pop(one, None), self.requests.pop(other, None)
            if first is not None:
                self.requests[other] = first
            if second is not None and direction == MoveDirectionality.SWAP:
                self.requests[one] = second

    def apply(self, logits: Tensor) -> Tensor:  # [row, vocab]
        if not self.requests:
            return logits
        known = [self.requests[row] for row in range(len(logits))]
        sampling = known[0].sampling
        distribution = log_distribution(logits, self.banned, sampling.temperature)
        uniform = None
        if not sampling.greedy:
            numbers = [one.noise[len(one.drawn)] for one in known if one.noise is not None]
            uniform = torch.tensor(numbers, dtype=torch.float64, device=logits.device)
        token = choose(distribution, uniform, sampling, self.eos_id)
        logprob = log_probs_of(distribution, token).to(logits.dtype)
        logits.fill_(-torch.inf)
        return logits.scatter_(1, token.unsqueeze(1), logprob.unsqueeze(1))
