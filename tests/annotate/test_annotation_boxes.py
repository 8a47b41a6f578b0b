"""Box geometry against counting whole pixels one by one, and what the merge promises."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexp.annotate.boxes import SMALLEST_PX, agree, area, clip, distinct, hull, iou, tag_of

SIDE = 12
cells = st.integers(-3, SIDE + 3)
any_boxes = st.tuples(cells, cells, cells, cells)
boxes = any_boxes.map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]) + 1, max(b[1], b[3]) + 1)
)


def pixels(box):
    """The unit squares of a box with whole corners."""
    x1, y1, x2, y2 = box
    return set(itertools.product(range(x1, x2), range(y1, y2)))


@given(boxes, boxes)
def test_iou_counts_pixels(one, other):
    left, right = pixels(one), pixels(other)
    assert area(one) == len(left)
    assert iou(one, other) == pytest.approx(len(left & right) / len(left | right), abs=1e-12)
    assert iou(one, other) == iou(other, one)
    assert iou(one, one) == 1.0


@given(boxes, boxes)
def test_hull_is_the_smallest_box_around_both(one, other):
    both = pixels(one) | pixels(other)
    xs, ys = [x for x, _ in both], [y for _, y in both]
    assert hull(one, other) == (min(xs), min(ys), max(xs) + 1, max(ys) + 1)


@given(any_boxes)
def test_clip_keeps_what_lies_inside(box):
    inside = {(x, y) for x, y in pixels(box) if 0 <= x < SIDE and 0 <= y < SIDE + 2}
    found = clip(box, (SIDE, SIDE + 2))
    assert (found is None) == (not inside)
    if found:
        assert pixels(tuple(map(int, found))) == inside
        assert clip(found, (SIDE, SIDE + 2)) == found


def test_clip_drops_slivers():
    assert clip((0, 0, SMALLEST_PX - 0.01, 9), (10, 10)) is None
    assert clip((9.5, 2, 40, 9), (10, 10)) is None
    assert clip((-5, 2, 1, 9), (10, 10)) == (0, 2, 1, 9)


@given(st.lists(boxes, max_size=7), st.sampled_from([0.3, 0.7, 1.0]))
def test_distinct_against_a_plain_loop(found, duplicate):
    kept = distinct(found, duplicate)
    expected = []
    for index, box in enumerate(found):
        overlaps = []
        for other in expected:
            left, right = pixels(box), pixels(found[other])
            overlaps.append(len(left & right) / len(left | right))
        if not [overlap for overlap in overlaps if overlap >= duplicate]:
            expected.append(index)
    assert kept == expected
    assert distinct([found[i] for i in kept], duplicate) == list(range(len(kept)))
    assert kept[:1] == ([0] if found else [])


def test_agreement_includes_its_threshold():
    one, other = (0, 0, 10, 10), (0, 0, 10, 7)
    assert agree(one, other, 0.7) and not agree(one, other, 0.701)


def test_pools_are_told_by_the_number_of_boxes():
    assert [tag_of(count) for count in range(5)] == ["", "single", "multi", "multi", "multi"]
