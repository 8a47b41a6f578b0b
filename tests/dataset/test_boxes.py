"""Evidence boxes of a table: frames, edges, and everything that is not a box."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexp.dataset._boxes import BadBoxes, has_area, read_boxes
from vexp.experience.evidence import relative_boxes

SIZE = (200, 100)


@given(st.tuples(st.integers(0, 199), st.integers(0, 99), st.integers(1, 200), st.integers(1, 100)))
def test_pixel_boxes_come_back_as_they_are(corners) -> None:
    x1, y1, dx, dy = corners
    box = (x1, y1, min(x1 + dx, 200), min(y1 + dy, 100))
    if max(box) <= 1:
        return  # taken for a normalised one, see below
    assert read_boxes([list(box)], "xyxy_px", SIZE) == (tuple(map(float, box)),)


@given(st.floats(0, 0.9), st.floats(0, 0.9), st.floats(0.01, 0.1), st.floats(0.01, 0.1))
def test_normalised_boxes_are_scaled_to_the_image(x, y, w, h) -> None:
    (found,) = read_boxes([[x, y, x + w, y + h]], "xyxy_norm", SIZE)
    assert found == pytest.approx((200 * x, 100 * y, 200 * (x + w), 100 * (y + h)))


def test_the_whole_image_and_rounding_beyond_it() -> None:
    whole = (0.0, 0.0, 200.0, 100.0)
    assert read_boxes([[0, 0, 200, 100]], "xyxy_px", SIZE) == (whole,)
    assert read_boxes([[-0.5, 0, 200.5, 101]], "xyxy_px", SIZE) == (whole,)
    assert read_boxes([[0, 0, 1.002, 1]], "xyxy_norm", SIZE) == (whole,)


def test_a_box_smaller_than_a_token_is_a_box() -> None:
    assert read_boxes([[10, 10, 10.5, 10.5]], "xyxy_px", SIZE) == ((10, 10, 10.5, 10.5),)


def test_one_flat_box_and_no_box() -> None:
    assert read_boxes([1, 2, 30, 40], "xyxy_px", SIZE) == ((1, 2, 30, 40),)
    assert read_boxes(None, "xyxy_px", SIZE) == ()
    assert read_boxes([], "xyxy_px", None) == ()


@pytest.mark.parametrize(
    ("cell", "box_format", "message"),
    [
        ([[0.1, 0.1, 0.5, 0.5]], "xyxy_px", "looks normalised"),
        ([[0.1, 0.1, 1.002, 0.5]], "xyxy_px", "looks normalised"),  # the rounded one
        ([[10, 10, 50, 50]], "xyxy_norm", "looks like pixels"),
        ([[0.2, 0.2, 1.5, 0.4]], "xyxy_norm", "reaches out of the image (0 to 1)"),
        ([[150, 10, 260, 50]], "xyxy_px", "reaches out of the image (200 x 100 pixels)"),
        ([[300, 10, 360, 50]], "xyxy_px", "reaches out"),
        ([[-50, 10, 60, 50]], "xyxy_px", "reaches out"),
        ([[50, 10, 50, 40]], "xyxy_px", "no area"),
        ([[50, 40, 60, 10]], "xyxy_px", "no area"),
        ([[1, 2, 3]], "xyxy_px", "four numbers"),
        ([[1, 2, 30, 40], [5]], "xyxy_px", "four numbers"),
        ([[1, 2, 3, "x"]], "xyxy_px", "not a number"),
        ([[1, 2, 3, True]], "xyxy_px", "not a number"),
        ([[1, 2, 3, float("nan")]], "xyxy_px", "not finite"),
        ([[1, 2, 3, float("inf")]], "xyxy_px", "not finite"),
        ("1,2,3,4", "xyxy_px", "list of boxes"),
        ([1, 2, 3], "xyxy_px", "four numbers"),
    ],
)
def test_what_is_no_box_is_named(cell, box_format, message) -> None:
    with pytest.raises(BadBoxes, match=message.replace("(", r"\(").replace(")", r"\)")):
        read_boxes(cell, box_format, SIZE)


def test_boxes_need_an_image() -> None:
    with pytest.raises(BadBoxes, match="no image"):
        read_boxes([[1, 2, 3, 4]], "xyxy_px", None)


@pytest.mark.parametrize(
    "box", [[200, 200, 300, 300], [30, 30, 30, 60], [40, 50, 20, 60], [-50, 10, -5, 20]]
)
def test_bad_boxes_are_refused_or_come_uncut_to_be_dropped(box) -> None:
    size = (112, 112)
    with pytest.raises(BadBoxes):
        read_boxes([box], "xyxy_px", size)
    assert read_boxes([box], "xyxy_px", size, "dropped") == (tuple(map(float, box)),)
    assert not has_area(tuple(map(float, box)), size)
    assert relative_boxes([tuple(map(float, box))], size) == ((), 1)


def test_a_box_that_reaches_out_is_cut_where_bad_ones_are_dropped() -> None:
    (found,) = read_boxes([[0.5, 0.5, 1.5, 1.0]], "xyxy_norm", (100, 50), "dropped")
    assert has_area(found, (100, 50))
    assert relative_boxes([found], (100, 50)) == (((0.5, 0.5, 1.0, 1.0),), 0)


@pytest.mark.parametrize(
    ("box", "box_format"), [([0.1, 0.1, 0.5, 1.002], "xyxy_px"), ([10, 10, 50, 60], "xyxy_norm")]
)
def test_a_box_in_the_other_unit_is_never_dropped_silently(box, box_format) -> None:
    with pytest.raises(BadBoxes, match="looks"):
        read_boxes([box], box_format, (112, 112), "dropped")
