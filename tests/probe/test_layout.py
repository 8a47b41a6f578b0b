"""Views of an image: the order of their tokens, boxes and targets on them, and one grid for all."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.backbone.plain import QWEN, TILED, painted, row_by_row, twin
from tests.tiny import PROMPT, item
from vexp.experience.evidence import layout_masks, layout_target, token_masks
from vexp.probe.layout import View, count, on_finest, places, tiled
from vexp.registry import REGISTRY

sides = st.integers(1, 4)
shares = st.tuples(*[st.floats(0.0, 1.0)] * 4)


def test_one_tile_is_one_view_and_several_have_one_more():
    assert tiled(1, 1, 3) == (View(3, 3),)
    assert tiled(2, 3, 4) == (View(8, 12, (2, 3)), View(4, 4))
    assert count(tiled(2, 3, 4)) == 7 * 16
    assert count(()) == 0


@given(down=sides, across=sides, side=sides)
def test_places_are_row_by_row_whatever_the_tiles(down, across, side):
    layout = tiled(down, across, side)
    image = torch.zeros(2, count(layout) + 5, dtype=torch.bool)
    image[0, 3 : 3 + count(layout)] = True
    image[1, 2:3] = True
    index, there = places(image, (layout, (View(1, 1),)))
    expected = row_by_row(torch.arange(3, 3 + count(layout)), layout)
    assert index[0].tolist() == expected.tolist()
    assert there.sum(1).tolist() == [count(layout), 1]
    assert int(index[1, 0]) == 2


@given(down=sides, across=sides, side=sides, boxes=st.lists(shares, min_size=1, max_size=3))
def test_boxes_cover_each_view_by_itself(down, across, side, boxes):
    layout = tiled(down, across, side)
    masks = layout_masks(boxes, layout)
    before = 0
    for view in layout:
        part = masks[:, before : before + view.rows * view.columns]
        assert torch.equal(part, token_masks(boxes, (view.rows, view.columns)))
        before += view.rows * view.columns
    assert masks.shape[1] == before


@pytest.mark.parametrize("name", ["gaussian_mixture", "hard_box"])
def test_a_target_gives_each_view_the_mass_of_its_tokens(name):
    target, boxes = REGISTRY.get("target", name)(), [(0.1, 0.2, 0.45, 0.9)]
    layout = tiled(2, 3, 2)
    found = layout_target(target, boxes, layout)
    fine, coarse = found[:24], found[24:]
    assert found.sum() == pytest.approx(1.0, abs=1e-6)
    assert fine.sum() == pytest.approx(24 / 28, abs=1e-6)
    torch.testing.assert_close(fine / fine.sum(), target.distribution(boxes, (4, 6)))
    torch.testing.assert_close(coarse / coarse.sum(), target.distribution(boxes, (2, 2)))
    alone = layout_target(target, boxes, (View(4, 6),))
    assert torch.equal(alone, target.distribution(boxes, (4, 6)))


@given(down=sides, across=sides, side=sides, seed=st.integers(0, 1000))
def test_one_grid_shares_out_every_view_by_area(down, across, side, seed):
    layout = tiled(down, across, side)
    given_shares = torch.rand(count(layout), generator=torch.Generator().manual_seed(seed)).double()
    found, grid = on_finest(given_shares.unsqueeze(0), layout)
    assert grid == (down * side, across * side)
    expected = [0.0] * (grid[0] * grid[1])
    before = 0
    for view in layout:
        for row in range(view.rows):
            for column in range(view.columns):
                share = float(given_shares[before + row * view.columns + column])
                for y in range(grid[0]):
                    for x in range(grid[1]):
                        high = _shared(row, view.rows, y, grid[0])
                        wide = _shared(column, view.columns, x, grid[1])
                        expected[y * grid[1] + x] += share * high * wide
        before += view.rows * view.columns
    assert found[0].tolist() == pytest.approx(expected, abs=1e-9)
    assert float(found.sum()) == pytest.approx(float(given_shares.sum()))


def _shared(one, of_one, other, of_other):
    low = max(one / of_one, other / of_other)
    high = min((one + 1) / of_one, (other + 1) / of_other)
    return max(0.0, high - low) * of_one


def image_embeddings(owner, picture):
    """What the decoder gets of a picture: [image token, hidden], in the order of its layout."""
    things = [item(0), item(1)]
    object.__setattr__(things[1], "image", picture)
    batch = owner.encode(things, PROMPT)
    image = owner.family.image_tokens(owner.model.config, batch.input_ids)
    embeds = owner.model.get_input_embeddings()(batch.input_ids)
    with torch.no_grad():
        seen = owner.family.sighted(owner.model, embeds, image, batch)["inputs_embeds"]
    index, there = places(image, batch.layouts)
    return seen[1, index[1][there[1]]], batch.layouts[1]


@pytest.fixture(scope="module", params=[*QWEN, *TILED])
def shortsighted(request):
    """A twin in whose vision tower no patch looks at another one."""
    owner = twin(request.param).load()
    for name, weight in owner.model.named_parameters():
        part = name.removesuffix(".weight").removesuffix(".bias")
        mixes = part.endswith(("attn.proj", "projection_layer", "out_proj"))
        if mixes and ("visual" in name or "vision" in name):
            weight.data.zero_()
    return owner


@pytest.mark.parametrize(("width", "height"), [(112, 56), (56, 112), (112, 112), (56, 56)])
@pytest.mark.parametrize("cell", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_a_box_in_a_picture_changes_the_tokens_that_are_its_evidence(
    shortsighted, width, height, cell
):
    """Painted is one cell, at a corner of the finest view; in each view its token changes most."""
    owner = shortsighted
    grey, layout = image_embeddings(owner, painted(width, height, (0, 0, 0, 0)))
    rows, columns = max((view.grid for view in layout), key=math.prod)
    row, column = cell[0] * (rows - 1), cell[1] * (columns - 1)
    box = (column / columns, row / rows, (column + 1) / columns, (row + 1) / rows)
    left, right = (round(x * width) for x in box[::2])
    top, bottom = (round(y * height) for y in box[1::2])
    white, same = image_embeddings(owner, painted(width, height, (left, top, right, bottom)))
    assert same == layout
    changed, before = (white - grey).abs().amax(-1), 0
    for view in layout:
        part = changed[before : before + math.prod(view.grid)]
        assert token_masks([box], view.grid)[0, part.argmax()]
        before += math.prod(view.grid)
    assert before == len(changed)
