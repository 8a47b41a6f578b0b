"""A black rectangle: its size, and where it may lie."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexp.dataset.base import Item
from vexp.registry import REGISTRY

CropFill = REGISTRY.get("distortion", "crop_fill")


def black(size, seed=0, **fields):  # [row, column] bool
    item = Item(id="a", question="q", answer="a", image=PIL.Image.new("RGB", size, "white"))
    found = np.asarray(CropFill(**fields).apply(item, np.random.default_rng(seed)).image)
    return (found == 0).all(axis=2)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 9))
def test_it_is_one_rectangle_of_its_share_of_the_sides(width, height, side, seed):
    found = black((width, height), seed, side=side)
    wide, high = int(width * side), int(height * side)
    assert found.sum() == wide * high
    if wide and high:
        rows, columns = np.nonzero(found)
        assert np.ptp(rows) + 1 == high and np.ptp(columns) + 1 == wide


def test_every_place_that_fits_is_reached():
    corners = {tuple(np.argwhere(black((4, 3), seed, side=0.5))[0]) for seed in range(60)}
    assert corners == {(row, column) for row in range(3) for column in range(3)}


@pytest.mark.parametrize(("strength", "share"), [(1.0, 0.25), (0.5, 0.0625), (0.0, 0.0)])
def test_a_weaker_one_is_smaller(strength, share):
    assert black((40, 40), side=CropFill(side=0.5).at(strength).side).mean() == share
