"""Noise on pixels: its scale, its schedule, and where it is clipped."""

from __future__ import annotations

import math

import numpy as np
import PIL.Image
import pytest

from vexp.dataset.base import Item
from vexp.distortion.diffusion_noise import signal_share
from vexp.registry import REGISTRY

GREY = PIL.Image.new("RGB", (120, 100), (128, 128, 128))


def noisy(name, image=GREY, **fields):
    item = Item(id="a", question="q", answer="a", image=image)
    found = REGISTRY.get("distortion", name)(**fields).apply(item, np.random.default_rng(1))
    return np.asarray(found.image).astype(float)


def plain_signal_share(step):
    share = 1.0
    for i in range(step + 1):
        u = -6 + 12 * i / 999
        beta = (5e-3 - 1e-5) / (1 + math.exp(-u)) + 1e-5
        share *= 1 - beta
    return share


@pytest.mark.parametrize("step", [0, 1, 10, 250, 450, 500, 998, 999])
def test_the_schedule_equals_a_plain_one(step):
    assert signal_share(step) == pytest.approx(plain_signal_share(step), abs=1e-12)


def test_the_signal_fades_with_the_step():
    shares = [signal_share(step) for step in range(1000)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.9999 and shares[-1] < 0.1


def test_diffusion_noise_is_signal_plus_noise():
    """The same draws, put together pixel by pixel."""
    image = PIL.Image.fromarray(
        np.random.default_rng(2).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    )
    found = noisy("diffusion_noise", image, step=300)
    draws = np.random.default_rng(1).standard_normal((4, 5, 3))
    share = plain_signal_share(300)
    for y in range(4):
        for x in range(5):
            for c in range(3):
                value = math.sqrt(share) * image.getpixel((x, y))[c] / 255
                value += math.sqrt(1 - share) * draws[y, x, c]
                assert found[y, x, c] == pytest.approx(255 * min(max(value, 0), 1), abs=0.5 + 1e-6)


def test_step_0_is_hardly_visible_and_the_last_hardly_an_image():
    assert np.abs(noisy("diffusion_noise", step=0) - 128).max() <= 10
    black, white = (PIL.Image.new("RGB", GREY.size, c) for c in ("black", "white"))
    last = [noisy("diffusion_noise", image, step=999).mean() for image in (black, white)]
    first = [noisy("diffusion_noise", image, step=0).mean() for image in (black, white)]
    assert last[1] - last[0] < 0.3 * (first[1] - first[0])


def test_a_weaker_diffusion_noise_is_an_earlier_step():
    noise = REGISTRY.get("distortion", "diffusion_noise")
    assert [noise(step=500).at(s).step for s in (1.0, 0.5, 0.0019, 0.0)] == [500, 250, 0, 0]


def test_gaussian_noise_has_its_mean_and_deviation():
    found = noisy("gaussian_noise", mean=10.0, std=20.0)
    assert found.mean() == pytest.approx(138, abs=0.5)
    assert found.std() == pytest.approx(20, abs=0.5)


def test_gaussian_noise_is_clipped_not_wrapped():
    assert (noisy("gaussian_noise", mean=1000.0, std=0.0) == 255).all()
    assert (noisy("gaussian_noise", mean=-1000.0, std=0.0) == 0).all()
    strong = noisy("gaussian_noise")
    beyond = 2 * (1 - 0.5 * (1 + math.erf(128 / 200 / math.sqrt(2))))  # both ends
    assert np.isin(strong, (0, 255)).mean() == pytest.approx(beyond, abs=0.02)


def test_channels_and_pixels_differ():
    found = noisy("gaussian_noise", std=20.0)
    assert (found[:, :, 0] != found[:, :, 1]).any()
    assert len(np.unique(found[:, :, 0])) > 50
