"""Blacking out evidence, and regions of the same size without it."""

from __future__ import annotations

import math

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexp.dataset.base import Item
from vexp.registry import REGISTRY

SIZE = (40, 30)
EvidenceBlack = REGISTRY.get("distortion", "evidence_black")


def black(boxes, seed=0, size=SIZE, **fields):
    image = PIL.Image.new("RGB", size, "white")
    item = Item(id="a", question="q", answer="a", image=image, boxes=tuple(boxes))
    found = EvidenceBlack(**fields).apply(item, np.random.default_rng(seed))
    assert found.boxes == item.boxes
    return (np.asarray(found.image) == 0).all(axis=2)


def plain(boxes):
    """Pixels, one by one, that share an area with a box."""
    found = np.zeros((SIZE[1], SIZE[0]), dtype=bool)
    for y in range(SIZE[1]):
        for x in range(SIZE[0]):
            for x1, y1, x2, y2 in boxes:
                found[y, x] |= min(x + 1, x2) > max(x, x1) and min(y + 1, y2) > max(y, y1)
    return found


def sides(length):
    places = st.floats(-5, length + 5) | st.integers(-5, length + 5).map(float)
    return st.tuples(places, places).map(sorted).filter(lambda pair: pair[1] - pair[0] > 1e-6)


BOX = st.tuples(sides(SIZE[0]), sides(SIZE[1])).map(lambda s: (s[0][0], s[1][0], s[0][1], s[1][1]))


@given(st.lists(BOX, max_size=3))
def test_every_pixel_that_a_box_touches_is_black_and_no_other(boxes):
    np.testing.assert_array_equal(black(boxes), plain(boxes))


def test_edges_in_whole_pixels():
    found = black([(3.0, 4.0, 10.0, 8.0)])
    assert found.sum() == 7 * 4
    assert found[4:8, 3:10].all()


@pytest.mark.parametrize(
    "box",
    [
        (5.0, 5.0, 5.0, 9.0),
        (9.0, 5.0, 5.0, 9.0),
        (5.5, 5.2, 5.5, 5.4),
        (-9.0, -9.0, -2.0, -2.0),
        (40.0, 0.0, 50.0, 9.0),
        (math.nan, 0.0, 5.0, 5.0),
        (0.0, 0.0, math.inf, 5.0),
    ],
)
@pytest.mark.parametrize("control", [False, True])
def test_what_is_no_box_in_the_image_blacks_nothing(box, control):
    assert not black([box], control=control).any()


def test_without_boxes_nothing_is_black():
    assert not black([]).any()
    assert not black([], control=True).any()


@given(st.integers(0, 10**6))
def test_a_control_has_the_same_sizes_elsewhere(seed):
    boxes = [(2.0, 3.0, 12.0, 9.0), (20.0, 15.0, 26.0, 29.0)]
    found = black(boxes, seed, control=True)
    assert found.sum() == 10 * 6 + 6 * 14
    assert not (found & plain(boxes)).any()
    windows = [
        found[y : y + 6, x : x + 10].all() for y in range(SIZE[1] - 5) for x in range(SIZE[0] - 9)
    ]
    assert any(windows)


def test_a_control_may_lie_anywhere_else():
    boxes = [(10.0, 10.0, 20.0, 20.0)]
    ever = np.logical_or.reduce([black(boxes, seed, control=True) for seed in range(300)])
    assert (ever | plain(boxes)).mean() > 0.99


def test_a_control_without_room_overlaps_least():
    boxes = [(0.0, 0.0, 30.0, 30.0)]
    found = black(boxes, control=True)
    assert found[:, 10:].all() and not found[:, :10].any()
    assert black([(0.0, 0.0, 40.0, 30.0)], control=True).all()


def test_only_a_control_draws():
    assert EvidenceBlack(control=True).random
    assert not EvidenceBlack().random
    a, b = (black([(1.0, 1.0, 5.0, 5.0)], seed, control=True) for seed in (0, 1))
    assert (a != b).any()


def test_it_asks_for_boxes():
    assert EvidenceBlack().required() == ("boxes",)
