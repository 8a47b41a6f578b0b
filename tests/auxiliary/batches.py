"""Random ragged batches with what auxiliary losses read of them, whole and in micro-batches."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from tests.layouts import layouts
from tests.train.fakes import experience
from vexp.experience.batch import Counterfactual, Experience
from vexp.policy.policy import PolicyOutput
from vexp.probe.attention import ImageLogits
from vexp.probe.layout import count

LAYERS, HEADS, WIDTH, SIZE = 6, 3, 7, 3
GRIDS = ((2, 3), (1, 4), (0, 0), (3, 3), (2, 2))
EVIDENCE = (
    ((0.1, 0.0, 0.6, 0.7), (0.5, 0.4, 1.0, 1.0)),
    ((0.0, 0.2, 0.55, 0.9),),
    (),  # of a prompt without an image
    ((0.3, 0.3, 0.9, 0.7), (0.0, 0.0, 0.3, 0.35), (0.6, 0.6, 0.9, 0.95)),
    (),  # an image without a box
)
FOCUS_ID = 3  # of the tokens 0 to 3, of which responses have none, one or several
BLIND = 2  # the prompt without an image
LENGTHS = (1, WIDTH, 3, 0, 5, 2, 4, 1, 6, WIDTH, 2, 1, 3, 6, 5)  # one response is empty


def batch(seed: int = 0, *, prompts: int = len(GRIDS), **fields: Any) -> Experience:
    """Three responses to each of the prompts; two thirds of them, in no order, are right."""
    draw = torch.Generator().manual_seed(seed)
    group = torch.arange(prompts).repeat_interleave(SIZE)
    mask = torch.arange(WIDTH) < torch.tensor(LENGTHS[: len(group)])[:, None]
    right = torch.randperm(len(group), generator=draw) % 3 > 0
    made = experience(
        mask=mask,
        group=group,
        accuracies=right.double(),
        has_image=group != BLIND,
        evidence=EVIDENCE[:prompts],
        layouts=layouts(*GRIDS[:prompts]),
        boxes=EVIDENCE[:prompts],
        layers=LAYERS,
        tokens=torch.randint(0, FOCUS_ID + 1, mask.shape, generator=draw),
        emitted={"<Focus>": FOCUS_ID},
    )
    return dataclasses.replace(made, **fields)


def uniform(made: Experience, seed: int = 0) -> Tensor:  # [rollout, token]
    draw = torch.Generator().manual_seed(seed + 100)
    return torch.rand(made.mask.shape, generator=draw, dtype=torch.float64)


def logits_of(made: Experience, seed: int = 0, scale: float = 2.0) -> Tensor:
    """Attention logits [rollout, head, token, image token] in float64, all of them finite."""
    draw = torch.Generator().manual_seed(seed + 200)
    most = max(1, *map(count, made.layouts))
    shape = (len(made), HEADS, made.mask.shape[1], most)
    return scale * torch.randn(shape, generator=draw, dtype=torch.float64)


def logprobs_of(made: Experience, seed: int = 0) -> Tensor:  # [rollout, token] float64
    draw = torch.Generator().manual_seed(seed + 300)
    return -3 * torch.rand(made.mask.shape, generator=draw, dtype=torch.float64)


def with_counterfactual(made: Experience, distortion: Any, logprobs: Tensor) -> Experience:
    return dataclasses.replace(made, counterfactual={distortion: Counterfactual(logprobs)})


def output_of(
    made: Experience,
    rows: list[int],
    *,
    layer: int | None = None,
    logits: Tensor | None = None,
    logprobs: Tensor | None = None,
    live: dict[Any, Tensor] | None = None,
    wanted: Tensor | None = None,  # [rollout, token] bool: only these rows of attention are read
) -> PolicyOutput:
    """What a policy says about some responses: the given numbers, cut as a forward pass would."""
    part = made.select(rows)
    width = part.mask.shape[1]

    def cut(value: Tensor) -> Tensor:
        return value[rows, :width].masked_fill(~part.mask, 0.0)

    attention, places = {}, None
    if logits is not None and layer is not None:
        counts = torch.tensor([count(layout) for layout in part.layouts])[part.group]
        most = max(1, int(counts.max()))
        seen = torch.arange(most) < counts[:, None]
        own = logits[rows, :, :width, :most].masked_fill(~seen[:, None, None], -torch.inf)
        if wanted is not None:
            chosen = wanted[rows, :width].int()
            most_rows = max(1, int(chosen.sum(1).max()))
            places = chosen.argsort(dim=1, descending=True, stable=True)[:, :most_rows]
            index = places[:, None, :, None].expand(-1, own.shape[1], -1, own.shape[3])
            own = own.gather(2, index)
        attention = {layer: ImageLogits(own, None, 0)}
    return PolicyOutput(
        logprobs=torch.zeros(part.mask.shape) if logprobs is None else cut(logprobs),
        attention=attention,
        rows=places,
        counterfactual={key: cut(value) for key, value in (live or {}).items()},
    )


def loss_of(
    term: Any,
    made: Experience,
    draw: Tensor,
    *,
    portions: list[list[int]] | None = None,
    fewest: bool = False,
    **given: Any,
) -> Tensor:
    """The term's loss of one update; with `fewest`, only rows with a weight are read."""
    weights = term.weights(made, draw)
    made = dataclasses.replace(made, auxiliary={"term": weights})
    total = torch.zeros((), dtype=torch.float64)
    for rows in portions or [list(range(len(made)))]:
        output = output_of(made, rows, wanted=weights != 0 if fewest else None, **given)
        part = made.select(rows)
        total = total + (part.auxiliary["term"] * term.token_loss(output, part)).sum()
    return total
