"""Layouts of images that are one grid of tokens, and back."""

from __future__ import annotations

from vexp.probe.layout import Layout, View


def layouts(*grids: tuple[int, int]) -> tuple[Layout, ...]:
    """The layout of each grid of rows and columns; (0, 0) stands for no image."""
    return tuple((View(*grid),) if grid[0] * grid[1] else () for grid in grids)


def grid_of(layout: Layout) -> tuple[int, int]:
    """Rows and columns of the one view; (0, 0) without an image."""
    if not layout:
        return 0, 0
    (view,) = layout
    return view.grid
