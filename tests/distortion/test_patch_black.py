"""Black patches: where they lie, how many there are, and who shares them."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexp.dataset.base import Item
from vexp.registry import REGISTRY

PatchBlack = REGISTRY.get("distortion", "patch_black")


def black(size, seed=0, **fields):
    item = Item(id="a", question="q", answer="a", image=PIL.Image.new("RGB", size, "white"))
    found = PatchBlack(**fields).apply(item, np.random.default_rng(seed))
    values = np.asarray(found.image)
    assert np.isin(values, (0, 255)).all()
    assert (values.min(axis=2) == values.max(axis=2)).all()
    return values[:, :, 0] == 0


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 20), st.integers(0, 9))
def test_a_patch_is_wholly_black_or_not_at_all(width, height, side, seed):
    found = black((width, height), seed, patch_size=side, mask_ratio=0.5)
    for top in range(0, height, side):
        for left in range(0, width, side):
            patch = found[top : top + side, left : left + side]
            assert patch.all() or not patch.any()


def test_the_share_of_black_patches():
    found = black((1400, 1400), mask_ratio=0.6)
    assert found.mean() == pytest.approx(0.6, abs=0.02)


def test_none_and_all():
    assert not black((30, 20), mask_ratio=0.0).any()
    assert black((30, 20), mask_ratio=1.0).all()


def test_other_noise_other_patches():
    assert (black((280, 280), seed=0) != black((280, 280), seed=1)).any()


def test_a_mask_for_the_prompt_or_for_each_rollout():
    assert not PatchBlack().per_rollout
    assert PatchBlack(per="rollout").per_rollout
    assert PatchBlack(per="rollout") != PatchBlack()
