"""What every registered target promises."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from vexp.registry import REGISTRY

SIDE = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted).filter(lambda s: s[0] < s[1])
BOX = st.tuples(SIDE, SIDE).map(lambda s: (s[0][0], s[1][0], s[0][1], s[1][1]))
BOXES = st.lists(BOX, min_size=1, max_size=4)
GRID = st.tuples(st.integers(1, 9), st.integers(1, 9))
each = pytest.mark.parametrize("name", REGISTRY.names("target"))


def target(name, **fields):
    return REGISTRY.get("target", name)(**fields)


@each
@given(BOXES, GRID)
@example([(0.0, 0.0, 1.0, 1.0)], (18, 14))
@example([(0.0, 0.0, 5e-324, 5e-324)], (18, 14))
@example([(0.5, 0.5, 0.5 + 1e-16, 0.5 + 1e-15)], (2, 2))
@example([(0.9999999, 0.0, 1.0, 1e-9)], (18, 14))
def test_a_distribution_over_the_tokens(name, boxes, grid):
    found = target(name).distribution(boxes, grid)
    assert found.shape == (grid[0] * grid[1],)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert (found >= 0).all()
    assert float(found.double().sum()) == pytest.approx(1, abs=1e-6)


@each
@given(BOXES, GRID)
def test_boxes_are_a_set(name, boxes, grid):
    forth = target(name).distribution(boxes, grid)
    torch.testing.assert_close(target(name).distribution(boxes[::-1], grid), forth)
    torch.testing.assert_close(target(name).distribution(tuple(boxes), grid), forth)


@each
def test_the_same_boxes_give_the_same_target(name):
    boxes = [(0.1, 0.2, 0.4, 0.9)]
    assert target(name).distribution(boxes, (6, 5)).equal(target(name).distribution(boxes, (6, 5)))


@each
def test_more_of_it_is_where_the_evidence_is(name):
    """A box around the middle of a quarter of the image."""
    found = target(name).distribution([(0.1, 0.1, 0.4, 0.4)], (8, 8)).reshape(8, 8)
    assert found[:4, :4].sum() > 0.75
    assert found[:4, :4].max() == found.max()


@each
def test_mirrored_boxes_give_the_mirrored_target(name):
    left, right = [(0.125, 0.25, 0.5, 0.5)], [(0.5, 0.25, 0.875, 0.5)]
    upper, lower = [(0.125, 0.25, 0.5, 0.375)], [(0.125, 0.625, 0.5, 0.75)]
    shape = (8, 10)  # no centre on an edge, which belongs to one side only
    for one, other, axis in ((left, right, 1), (upper, lower, 0)):
        found = target(name).distribution(one, shape).reshape(shape)
        mirrored = target(name).distribution(other, shape).reshape(shape).flip(axis)
        torch.testing.assert_close(found, mirrored)


@each
def test_equal_ones_are_one_key(name):
    assert target(name) == target(name)
    assert hash(target(name)) == hash(target(name))
