"""Evidence boxes on the token grid, against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vexp.experience.evidence import relative_boxes, token_mask, token_masks

SIZE = (200, 100)


def plain_mask(box, grid):
    """Row by row, whether a token's centre lies in the box; else the token of the box's centre."""
    rows, columns = grid
    x1, y1, x2, y2 = box
    found = [
        x1 <= (c + 0.5) / columns < x2 and y1 <= (r + 0.5) / rows < y2
        for r in range(rows)
        for c in range(columns)
    ]
    if not any(found):
        r = min(int((y1 + y2) / 2 * rows), rows - 1)
        c = min(int((x1 + x2) / 2 * columns), columns - 1)
        found[r * columns + c] = True
    return found


SIDE = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted).filter(lambda s: s[0] < s[1])
BOX = st.tuples(SIDE, SIDE).map(lambda s: (s[0][0], s[1][0], s[0][1], s[1][1]))
GRID = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(st.lists(BOX, min_size=1, max_size=4), GRID)
def test_masks_equal_plain_ones(boxes, grid):
    expected = [plain_mask(box, grid) for box in boxes]
    assert token_masks(boxes, grid).tolist() == expected
    assert token_mask(boxes, grid).tolist() == [
        any(column) for column in zip(*expected, strict=True)
    ]


@given(BOX, GRID)
def test_every_box_has_a_token(box, grid):
    assert token_mask([box], grid).any()


@given(GRID)
def test_the_whole_image_is_all_tokens(grid):
    assert token_mask([(0.0, 0.0, 1.0, 1.0)], grid).all()


def test_tokens_go_row_by_row():
    assert token_mask([(0.0, 0.5, 1.0, 1.0)], (2, 3)).tolist() == [False] * 3 + [True] * 3


def test_no_boxes_no_tokens():
    assert token_masks([], (2, 3)).shape == (0, 6)
    assert token_mask([], (2, 3)).tolist() == [False] * 6


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 40))
def test_an_edge_through_a_centre_holds_below_and_not_above(columns, cut, side):
    """Boxes in pixels that meet at a token's centre share the tokens out, each to one of them."""
    width = 2 * side * columns
    edge = side * (2 * min(cut, columns) - 1)  # the centre of a column, in whole pixels
    (left, right), _ = relative_boxes([(0, 0, edge, 10), (edge, 0, width, 10)], (width, 10))
    masks = token_masks([left, right], (1, columns))
    wanted = [(c + 0.5) * 2 * side >= edge for c in range(columns)]
    assert masks[1].tolist() == wanted
    if edge > side:  # else the left box holds no centre, and takes the first token, too
        assert masks[0].tolist() == [not w for w in wanted]
    turned = [(y1, x1, y2, x2) for x1, y1, x2, y2 in (left, right)]
    assert token_masks(turned, (columns, 1)).equal(masks)


def test_boxes_smaller_than_a_token():
    tiny = (0.30, 0.55, 0.31, 0.56)
    assert token_mask([tiny], (2, 4)).nonzero().tolist() == [[5]]
    corner = (1 - 1e-12, 1 - 1e-12, 1.0, 1.0)
    assert token_mask([corner], (2, 4)).nonzero().tolist() == [[7]]
    stripe = (0.0, 0.3, 1.0, 0.4)  # between two rows of centres
    assert token_mask([stripe], (2, 4)).nonzero().tolist() == [[2]]


def test_pixels_become_shares():
    boxes, dropped = relative_boxes([(20, 10, 100, 50), (0, 0, 200, 100)], SIZE)
    assert boxes == ((0.1, 0.1, 0.5, 0.5), (0.0, 0.0, 1.0, 1.0))
    assert dropped == 0


def test_boxes_are_cut_to_the_image():
    boxes, dropped = relative_boxes([(-50, 50, 20, 300)], SIZE)
    assert boxes == ((0.0, 0.5, 0.1, 1.0),)
    assert dropped == 0


@pytest.mark.parametrize(
    "bad",
    [
        (10, 10, 10, 20),
        (10, 20, 30, 20),
        (30, 10, 10, 20),
        (-20, 10, -5, 20),
        (200, 10, 250, 20),
        (10, 100, 20, 120),
        (math.nan, 10, 20, 20),
        (10, 10, math.inf, 20),
        (-math.inf, 10, 20, 20),
    ],
)
def test_what_is_no_box_in_the_image_is_dropped_and_counted(bad):
    good = (20, 10, 100, 50)
    assert relative_boxes([bad, good, bad], SIZE) == (((0.1, 0.1, 0.5, 0.5),), 2)
    assert relative_boxes([bad], SIZE) == ((), 1)


@given(st.lists(st.tuples(*[st.floats()] * 4), max_size=5))
def test_valid_boxes_have_an_area_within_the_image(boxes):
    valid, dropped = relative_boxes(boxes, SIZE)
    assert len(valid) + dropped == len(boxes)
    for x1, y1, x2, y2 in valid:
        assert 0 <= x1 < x2 <= 1
        assert 0 <= y1 < y2 <= 1
    assert token_masks(valid, (3, 5)).any(dim=1).all()


def test_masks_are_boolean():
    assert token_masks([(0.0, 0.0, 1.0, 1.0)], (2, 2)).dtype == torch.bool
