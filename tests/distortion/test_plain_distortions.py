"""Distortions without a formula of their own: discard, black, blur, rotate."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest

from vexp.dataset.base import Item
from vexp.registry import REGISTRY


def apply(name, image, seed=0, **fields):
    item = Item(id="a", question="q", answer="a", image=image, boxes=((1.0, 1.0, 5.0, 5.0),))
    return REGISTRY.get("distortion", name)(**fields).apply(item, np.random.default_rng(seed))


def spot(size=31):
    """A white pixel in the middle of black."""
    image = PIL.Image.new("RGB", (size, size))
    image.putpixel((size // 2, size // 2), (255, 255, 255))
    return image


def test_discard_leaves_no_image_and_no_boxes():
    found = apply("discard", spot())
    assert found.image is None
    assert found.boxes == ()


def test_black_is_black():
    found = apply("black", PIL.Image.new("RGB", (9, 4), "red"))
    assert found.image.getextrema() == ((0, 0),) * 3
    assert found.boxes == ((1.0, 1.0, 5.0, 5.0),)


def test_blur_spreads_and_more_so_with_a_larger_radius():
    peaks = [
        apply("gaussian_blur", spot(), radius=r).image.getpixel((15, 15))[0] for r in (0, 1, 2)
    ]
    assert peaks[0] == 255 > peaks[1] > peaks[2] > 0


def test_blur_has_the_width_of_its_radius():
    """A step edge blurred is the Gaussian's integral; Pillow approximates it by boxes."""
    edge = PIL.Image.new("RGB", (81, 9))
    edge.paste("white", (41, 0, 81, 9))
    row = np.asarray(apply("gaussian_blur", edge, radius=5.0).image)[4, :, 0] / 255
    density = np.diff(row)
    place = np.arange(80) + 0.5
    mean = (density * place).sum()
    assert np.sqrt((density * (place - mean) ** 2).sum()) == pytest.approx(5.0, abs=0.2)


def test_rotation_keeps_the_middle_and_cuts_the_corners():
    image = PIL.Image.new("RGB", (40, 40), "white")
    image.putpixel((20, 20), (255, 255, 255))
    found = apply("rotate", image, degrees=45.0, seed=3).image
    assert found.getpixel((20, 20)) == (255, 255, 255)
    assert found.getpixel((0, 0)) == (0, 0, 0)


def test_an_expanded_rotation_holds_all_of_the_image():
    image = PIL.Image.new("RGB", (40, 20), "white")
    kept = apply("rotate", image, degrees=45.0, seed=3).image
    whole = apply("rotate", image, degrees=45.0, seed=3, expand=True).image
    assert kept.size == image.size
    assert whole.size[0] >= 40 and whole.size[1] > 20
    areas = [np.asarray(each, dtype=float)[:, :, 0].sum() / 255 for each in (kept, whole)]
    assert areas[0] < 0.8 * areas[1]
    assert areas[1] == pytest.approx(40 * 20, rel=0.1)


def test_angles_stay_within_the_limit_and_go_both_ways():
    """The angle is read off a bright arm that points right."""
    arm = PIL.Image.new("RGB", (201, 201))
    arm.paste("white", (180, 98, 200, 103))
    angles = []
    for seed in range(30):
        values = np.asarray(apply("rotate", arm, seed=seed, degrees=15.0).image)[:, :, 0]
        y, x = np.nonzero(values > 128)
        angles.append(np.degrees(np.arctan2(100 - y.mean(), x.mean() - 100)))
    assert np.abs(angles).max() < 15.5
    assert min(angles) < -5 and max(angles) > 5


def test_a_weaker_rotation_turns_by_a_share_of_the_angle():
    rotate = REGISTRY.get("distortion", "rotate")
    assert rotate(degrees=12.0).at(0.25) == rotate(degrees=3.0)
    assert rotate().at(0.0).degrees == 0.0
    image = spot()
    assert apply("rotate", image, degrees=0.0).image.tobytes() == image.tobytes()


@pytest.mark.parametrize("name", ["discard", "black", "gaussian_blur", "gaussian_noise"])
def test_what_has_no_scale_is_the_same_at_every_strength(name):
    distortion = REGISTRY.get("distortion", name)()
    assert distortion.at(0.1) is distortion
