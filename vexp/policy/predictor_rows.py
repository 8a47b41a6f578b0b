"""Attention rows of what predicts a response token, in the place of the token's own.

The row that predicts token t is that of token t - 1, and for the first token that of the prompt's
last position. So one probe reads the ends of the prompts, another the responses, one place on.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from vexp.probe.attention import ImageLogits, Probe


@dataclasses.dataclass(frozen=True)
class PredictorRows:
    """Two probes that together answer `asked` with the rows of the predictors."""

    asked: Probe
    ends: Probe  # reads the prompts' last positions
    responses: Probe  # reads what `asked` wants, one token earlier

    @classmethod
    def of(cls, asked: Probe) -> PredictorRows:
        """The probes to use in the place of `asked`."""
        consume = asked.consume

        def shifted(layer: int, piece: ImageLogits) -> None:
            if consume is not None:
                consume(layer, dataclasses.replace(piece, start=piece.start + 1))

        return cls(
            asked=asked,
            ends=Probe(asked.layers, lse=asked.lse),
            responses=Probe(
                asked.layers,
                rows=None if asked.rows is None else (asked.rows - 1).clamp(min=0),
                lse=asked.lse,
                consume=None if consume is None else shifted,
            ),
        )

    def answer(self, prompt_index: Tensor) -> None:
        """Give `asked` what was read; prompt_index [rollout] says whose end precedes a response."""
        for layer, end in self.ends.found.items():
            lse = None if end.lse is None else end.lse[prompt_index]
            first = ImageLogits(
                logits=end.logits[prompt_index],
                lse=lse,
                start=0,
                # The end of a prompt sees nothing of the response.
                own_lse=None if lse is None else torch.full_like(lse, -torch.inf),
            )
            if self.asked.consume is not None:
                self.asked.consume(layer, first)
            else:
                self.asked.found[layer] = self._merged(first, self.responses.found.get(layer))

    def _merged(self, first: ImageLogits, rest: ImageLogits | None) -> ImageLogits:
        asked = first.lse is not None and (rest is None or rest.lse is not None)

        def joined(name: str) -> Tensor:
            return self._joined(getattr(first, name), getattr(rest, name) if rest else None)

        return ImageLogits(
            logits=joined("logits"),
            lse=joined("lse") if asked else None,
            start=0,
            own_lse=joined("own_lse") if asked else None,
        )

    def _joined(self, first: Tensor, rest: Tensor | None) -> Tensor:  # both [row, head, query, ...]
        """The rows that were asked for; `rest` is None where all responses have one token."""
        rows = self.asked.rows
        if rest is None:
            count = 1 if rows is None else rows.shape[1]
            return first.expand(-1, -1, count, *first.shape[3:])
        if rows is None:
            return torch.cat([first, rest], dim=2)
        begin = (rows == 0)[(slice(None), None, slice(None), *[None] * (first.ndim - 3))]
        return first.where(begin, rest)
