"""Evidence boxes on the grid of image tokens: which boxes count, and which tokens they cover.

Pure functions. A token stands for the centre of its cell; a box holds its left and upper edge, not
its right and lower one, so that boxes that tile the image share out its tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vexp.probe.layout import Layout, count

if TYPE_CHECKING:
    from vexp.dataset.base import Box
    from vexp.target.base import Target


def relative_boxes(boxes_px: Iterable[Box], size: tuple[int, int]) -> tuple[tuple[Box, ...], int]:
    """Boxes in shares of the image's width and height, cut to the image, and how many are dropped.

    `size` is the width and height that the boxes' pixels refer to. Dropped is a box that is not
    finite, or has no area within the image.
    """
    found = [_relative(box, size) for box in boxes_px]
    valid = tuple(box for box in found if box is not None)
    return valid, len(found) - len(valid)


def token_masks(boxes: Sequence[Box], grid: tuple[int, int]) -> Tensor:  # [box, token] bool
    """The tokens of each box: those whose centre lies in it, row by row of the grid.

    A box that holds no centre takes the one token whose cell holds the box's own centre. `boxes`
    are relative (see `relative_boxes`), `grid` is rows and columns of image tokens.
    """
    rows, columns = grid
    corners = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    x1, y1, x2, y2 = corners[:, :, None].unbind(dim=1)
    # A quotient: it is then the same number as an edge through a centre, given in pixels.
    x = (torch.arange(columns, dtype=torch.float64) + 0.5) / columns
    y = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    across, down = (x1 <= x) & (x < x2), (y1 <= y) & (y < y2)
    masks = (down[:, :, None] & across[:, None, :]).flatten(start_dim=1)
    column = ((x1 + x2) / 2 * columns).long().clamp(0, columns - 1)
    row = ((y1 + y2) / 2 * rows).long().clamp(0, rows - 1)
    nearest = torch.zeros_like(masks).scatter(1, row * columns + column, True)
    return torch.where(masks.any(dim=1, keepdim=True), masks, nearest)


def token_mask(boxes: Sequence[Box], grid: tuple[int, int]) -> Tensor:  # [token] bool
    """The tokens of at least one of the boxes; none without boxes."""
    return token_masks(boxes, grid).any(dim=0)


def layout_masks(boxes: Sequence[Box], layout: Layout) -> Tensor:  # [box, token] bool
    """The tokens of each box in every view of the image, as `token_masks` finds them in one."""
    return torch.cat([token_masks(boxes, view.grid) for view in layout], dim=1)


def layout_target(target: Target, boxes: Sequence[Box], layout: Layout) -> Tensor:  # [token]
    """A target over the tokens of all views: the same in each, by how many tokens it has.

    So uniform attention gives every view the mass that the target gives it.
    """
    parts = [target.distribution(boxes, view.grid) for view in layout]
    if len(parts) == 1:
        return parts[0]
    return torch.cat([part * (len(part) / count(layout)) for part in parts])


def _relative(box: Box, size: tuple[int, int]) -> Box | None:
    if not all(map(math.isfinite, box)):
        return None
    width, height = size
    x1, x2 = (min(max(x / width, 0.0), 1.0) for x in (box[0], box[2]))
    y1, y2 = (min(max(y / height, 0.0), 1.0) for y in (box[1], box[3]))
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None
