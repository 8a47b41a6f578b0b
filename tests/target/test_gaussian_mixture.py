"""The Gaussian mixture, against a plain one in double precision."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vexp.registry import REGISTRY

SIDE = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted).filter(lambda s: s[1] - s[0] > 1e-3)
BOX = st.tuples(SIDE, SIDE).map(lambda s: (s[0][0], s[1][0], s[0][1], s[1][1]))
BOXES = st.lists(BOX, min_size=1, max_size=4)
GRID = st.tuples(st.integers(1, 9), st.integers(1, 9))


def mixture(boxes, grid, **fields):
    return REGISTRY.get("target", "gaussian_mixture")(**fields).distribution(boxes, grid)


def plain(boxes, grid, scale, alpha, floor):
    """Token by token in relative coordinates; exponents less the largest, so none underflows."""
    rows, columns = grid
    total = [0.0] * (rows * columns)
    for x1, y1, x2, y2 in boxes:
        sx = max(scale * (x2 - x1), floor / columns)
        sy = max(scale * (y2 - y1), floor / rows)
        exponents = []
        for r in range(rows):
            for c in range(columns):
                dx = (c + 0.5) / columns - (x1 + x2) / 2
                dy = (r + 0.5) / rows - (y1 + y2) / 2
                exponents.append(-0.5 * ((dx / sx) ** 2 + (dy / sy) ** 2))
        densities = [math.exp(e - max(exponents)) for e in exponents]
        for v, density in enumerate(densities):
            total[v] += density / math.fsum(densities) / len(boxes)
    return [(1 - alpha) * q + alpha / len(total) for q in total]


@given(BOXES, GRID, st.floats(0.05, 1), st.floats(0, 1), st.sampled_from([0.0, 0.5, 2.0]))
def test_it_equals_the_plain_mixture(boxes, grid, scale, alpha, floor):
    found = mixture(boxes, grid, sigma_scale=scale, smoothing=alpha, sigma_floor=floor)
    expected = torch.tensor(plain(boxes, grid, scale, alpha, floor), dtype=torch.float64)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)


@given(BOXES, GRID)
def test_wholly_smoothed_it_is_uniform(boxes, grid):
    count = grid[0] * grid[1]
    found = mixture(boxes, grid, smoothing=1.0)
    torch.testing.assert_close(found, torch.full((count,), 1 / count))


@given(st.floats(0.05, 0.5), st.floats(0.05, 0.5), GRID)
def test_a_box_in_the_middle_gives_a_symmetric_target(half_width, half_height, grid):
    box = (0.5 - half_width, 0.5 - half_height, 0.5 + half_width, 0.5 + half_height)
    found = mixture([box], grid).reshape(grid)
    torch.testing.assert_close(found, found.flip(0))
    torch.testing.assert_close(found, found.flip(1))


@pytest.mark.parametrize("side", [1e-3, 1e-9, 1e-15])
def test_a_tiny_box_is_all_on_the_nearest_token(side):
    found = mixture([(0.3, 0.6, 0.3 + side, 0.6 + side)], (4, 4), smoothing=0.0)
    assert found.nonzero().tolist() == [[2 * 4 + 1]]
    assert float(found.sum()) == 1


def test_a_tiny_box_between_two_tokens_is_shared():
    found = mixture([(0.5 - 1e-9, 0.1, 0.5 + 1e-9, 0.2)], (1, 2), smoothing=0.0)
    assert found.tolist() == pytest.approx([0.5, 0.5])


def test_a_floor_spreads_a_tiny_box():
    tiny = [(0.5 - 1e-9, 0.5 - 1e-9, 0.5 + 1e-9, 0.5 + 1e-9)]
    found = mixture(tiny, (1, 3), smoothing=0.0, sigma_floor=0.5)
    beside = math.exp(-0.5 * (1 / 0.5) ** 2)
    expected = [beside / (1 + 2 * beside), 1 / (1 + 2 * beside), beside / (1 + 2 * beside)]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_the_edge_of_a_box_is_two_standard_deviations_out():
    """Density at the middle of an edge, relative to that of the centre."""
    found = mixture([(0.1, 0.0, 0.9, 1.0)], (1, 5), smoothing=0.0)
    assert float(found[0] / found[2]) == pytest.approx(math.exp(-0.5 * 2**2), rel=1e-5)


def test_boxes_weigh_alike_whatever_their_size():
    large, small = (0.0, 0.0, 0.5, 1.0), (0.74, 0.49, 0.76, 0.51)
    found = mixture([large, small], (8, 16), smoothing=0.0).reshape(8, 16)
    assert float(found[:, 11:13].sum()) == pytest.approx(0.5, abs=1e-2)


@pytest.mark.parametrize("box", [(0.0, 0.0, 0.2, 0.2), (0.8, 0.8, 1.0, 1.0), (0.0, 0.0, 1.0, 1.0)])
def test_at_the_edge_of_the_image_nothing_is_lost(box):
    assert float(mixture([box], (7, 5), smoothing=0.0).double().sum()) == pytest.approx(1, abs=1e-6)
