"""The hard box, against a plain one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vexp.registry import REGISTRY

SIDE = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted).filter(lambda s: s[0] < s[1])
BOX = st.tuples(SIDE, SIDE).map(lambda s: (s[0][0], s[1][0], s[0][1], s[1][1]))
BOXES = st.lists(BOX, min_size=1, max_size=4)
GRID = st.tuples(st.integers(1, 9), st.integers(1, 9))


def hard(boxes, grid, **fields):
    return REGISTRY.get("target", "hard_box")(**fields).distribution(boxes, grid)


def plain(boxes, grid, alpha):
    rows, columns = grid
    chosen = set()
    for x1, y1, x2, y2 in boxes:
        within = {
            r * columns + c
            for r in range(rows)
            for c in range(columns)
            if x1 <= (c + 0.5) / columns < x2 and y1 <= (r + 0.5) / rows < y2
        }
        row = min(int((y1 + y2) / 2 * rows), rows - 1)
        column = min(int((x1 + x2) / 2 * columns), columns - 1)
        chosen |= within or {row * columns + column}
    count = rows * columns
    return [(1 - alpha) * (v in chosen) / len(chosen) + alpha / count for v in range(count)]


@given(BOXES, GRID, st.floats(0, 1))
def test_it_equals_the_plain_one(boxes, grid, alpha):
    expected = torch.tensor(plain(boxes, grid, alpha), dtype=torch.float64)
    found = hard(boxes, grid, smoothing=alpha).double()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@given(BOXES, GRID)
def test_wholly_smoothed_it_is_uniform(boxes, grid):
    count = grid[0] * grid[1]
    torch.testing.assert_close(hard(boxes, grid, smoothing=1.0), torch.full((count,), 1 / count))


def test_the_whole_image_is_uniform():
    found = hard([(0.0, 0.0, 1.0, 1.0)], (3, 4), smoothing=0.0)
    torch.testing.assert_close(found, torch.full((12,), 1 / 12))


def test_overlapping_boxes_count_once():
    box = (0.0, 0.0, 0.5, 1.0)
    twice = hard([box, box, (0.25, 0.0, 0.5, 1.0)], (1, 4), smoothing=0.0)
    assert twice.tolist() == [0.5, 0.5, 0.0, 0.0]


def test_without_smoothing_it_is_zero_outside():
    found = hard([(0.0, 0.0, 0.5, 0.5)], (2, 2), smoothing=0.0)
    assert found.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert hard([(0.0, 0.0, 0.5, 0.5)], (2, 2)).tolist() == pytest.approx([0.925] + [0.025] * 3)


def test_a_tiny_box_is_the_token_it_lies_in():
    found = hard([(0.30, 0.55, 0.30 + 1e-9, 0.55 + 1e-9)], (2, 4), smoothing=0.0)
    assert found.nonzero().tolist() == [[5]]
