"""Where the tokens of an image lie on it.

A model sees an image as one grid of tokens, or as several views of it: cut into tiles, and once
more as a whole, smaller. Everything that reads image tokens has them view by view, and in each view
row by row over the whole image, whatever order the model has them in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class View:
    """The whole image as a grid of tokens."""

    rows: int
    columns: int
    # Tiles down and across: the model has the tokens tile by tile, row by row within each.
    tiles: tuple[int, int] = (1, 1)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.rows, self.columns

    def order(self) -> Tensor:  # [token]
        """Which of the model's tokens each token of the grid is, row by row."""
        down, across = self.tiles
        place = torch.arange(self.rows * self.columns)
        tiled = place.view(down, across, self.rows // down, self.columns // across)
        return tiled.transpose(1, 2).reshape(-1)


Layout = tuple[View, ...]  # empty without an image


def tiled(down: int, across: int, side: int) -> Layout:
    """An image cut into tiles of `side` x `side` tokens; of several, one shows it as a whole."""
    whole = View(side, side)
    if down * across == 1:
        return (whole,)
    return (View(down * side, across * side, (down, across)), whole)


def count(layout: Layout) -> int:
    """How many tokens an image has."""
    return sum(view.rows * view.columns for view in layout)


def places(
    image_mask: Tensor, layouts: Sequence[Layout]
) -> tuple[Tensor, Tensor]:  # [prompt, image token] both
    """Positions of the image tokens, and which of the entries are any, from [prompt, position]."""
    counts = image_mask.sum(dim=1)
    most = max(1, int(counts.max())) if len(counts) else 1
    found = image_mask.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    for row, layout in enumerate(layouts):
        if any(view.tiles != (1, 1) for view in layout):
            order = _order(layout).to(found.device)
            found[row, : len(order)] = found[row, order]
    return found, torch.arange(most, device=image_mask.device) < counts.unsqueeze(1)


def on_finest(shares: Tensor, layout: Layout) -> tuple[Tensor, tuple[int, int]]:
    """Shares [..., image token] of all views, added up on the grid of the finest; and that grid.

    A token of another view is shared out to the cells it covers, by area.
    """
    finest = max(layout, key=lambda view: view.rows * view.columns)
    total = shares.new_zeros(*shares.shape[:-1], *finest.grid)
    sizes = [view.rows * view.columns for view in layout]
    for view, part in zip(layout, torch.split(shares, sizes, dim=-1), strict=True):
        grid = part.reshape(*part.shape[:-1], *view.grid)
        if view.grid != finest.grid:
            down, across = (_overlap(*pair) for pair in zip(view.grid, finest.grid, strict=True))
            grid = down.T.to(grid) @ grid @ across.to(grid)
        total = total + grid
    return total.flatten(-2), finest.grid


def _order(layout: Layout) -> Tensor:
    parts, before = [], 0
    for view in layout:
        parts.append(view.order() + before)
        before += view.rows * view.columns
    return torch.cat(parts)


def _overlap(coarse: int, fine: int) -> Tensor:  # [coarse cell, fine cell]
    """What share of each coarse cell lies in each fine cell, along one side."""
    start = torch.arange(coarse, dtype=torch.float64).unsqueeze(1) / coarse
    cell = torch.arange(fine, dtype=torch.float64) / fine
    low = torch.maximum(start, cell)
    high = torch.minimum(start + 1 / coarse, cell + 1 / fine)
    return (high - low).clamp(min=0.0) * coarse
