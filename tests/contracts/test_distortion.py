"""What every registered distortion promises."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from vexp.dataset.base import Item
from vexp.registry import REGISTRY

SIZES = [(61, 47), (14, 14), (1, 1), (3, 90)]


@pytest.fixture(params=REGISTRY.names("distortion"))
def make(request):
    return REGISTRY.get("distortion", request.param)


def item(size=(61, 47)):
    width, height = size
    values = np.random.default_rng(5).integers(1, 256, (height, width, 3), dtype=np.uint8)
    boxes = ((0.0, 0.0, width / 3, height / 2), (width / 2, height / 2, width, height))
    image = PIL.Image.fromarray(values)
    return Item(id="test/0", question="what?", answer="7", image=image, boxes=boxes, tag="multi")


def noise(seed=0):
    return np.random.default_rng(seed)


def pixels(found):
    return found.image and (found.image.mode, found.image.size, found.image.tobytes())


@pytest.mark.parametrize("size", SIZES)
def test_a_function_of_item_and_noise(make, size):
    once, again = (make().apply(item(size), noise()) for _ in range(2))
    assert pixels(once) == pixels(again)
    assert replace(once, image=None) == replace(again, image=None)


@pytest.mark.parametrize("size", SIZES)
def test_the_image_is_gone_or_as_large_as_before(make, size):
    given = item(size)
    found = make().apply(given, noise())
    if found.image is not None:
        assert (found.image.mode, found.image.size) == (given.image.mode, given.image.size)


def test_the_item_that_came_in_is_not_changed(make):
    given = item()
    before = copy.deepcopy(given)
    make().apply(given, noise())
    assert pixels(given) == pixels(before)
    assert replace(given, image=None) == replace(before, image=None)


def test_something_changes(make):
    given = item()
    assert pixels(make().apply(given, noise())) != pixels(given)


def test_only_image_and_boxes_change(make):
    given = item()
    found = make().apply(given, noise())
    assert replace(found, image=None, boxes=()) == replace(given, image=None, boxes=())
    assert found.boxes == (given.boxes if found.image is not None else ())


def test_an_item_without_an_image_stays_as_it_is(make):
    bare = replace(item(), image=None, boxes=())
    assert make().apply(bare, noise()) == bare


def test_only_a_random_distortion_draws(make):
    distortion, generator = make(), noise()
    distortion.apply(item(), generator)
    drawn = generator.bit_generator.state != noise().bit_generator.state
    assert drawn == distortion.random
    assert distortion.random or not distortion.per_rollout


def test_equal_ones_are_one_key(make):
    assert make() == make()
    assert hash(make()) == hash(make())
    others = [REGISTRY.get("distortion", name) for name in REGISTRY.names("distortion")]
    assert len({other() for other in others}) == len(others)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_any_strength_gives_a_distortion_of_its_kind(make, strength):
    weaker = make().at(strength)
    assert type(weaker) is make
    weaker.apply(item(), noise())
    assert make().at(1.0) == make()
