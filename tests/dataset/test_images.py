"""Images of a table: every mode to RGB, and everything that cannot be one."""

from __future__ import annotations

import base64
import io

import numpy as np
import PIL.Image
import pytest

from vexp.dataset import _images
from vexp.dataset._images import BadImage, Source, decode, fingerprint, header_size, source


def encoded(image: PIL.Image.Image, image_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def first_pixel(image: PIL.Image.Image, image_format: str = "PNG", **options) -> tuple[int, ...]:
    decoded = decode(Source(data=encoded(image, image_format, **options)))
    assert decoded.mode == "RGB"
    return decoded.getpixel((0, 0))


def test_transparency_becomes_white() -> None:
    assert first_pixel(PIL.Image.new("RGBA", (4, 4), (255, 0, 0, 0))) == (255, 255, 255)
    assert first_pixel(PIL.Image.new("RGBA", (4, 4), (255, 0, 0, 255))) == (255, 0, 0)
    assert first_pixel(PIL.Image.new("LA", (4, 4), (0, 0))) == (255, 255, 255)


def test_palettes_with_and_without_transparency() -> None:
    palette = PIL.Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    assert first_pixel(palette) == (10, 200, 30)
    assert first_pixel(palette, transparency=1) == (255, 255, 255)


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (65535, 255), (32768, 128), (300, 1)])
def test_sixteen_bit_grey_is_scaled(value: int, expected: int) -> None:
    grey = PIL.Image.fromarray(np.full((4, 4), value, np.uint16))
    assert first_pixel(grey) == (expected,) * 3


def test_grey_one_bit_and_cmyk() -> None:
    assert first_pixel(PIL.Image.new("L", (4, 4), 77)) == (77, 77, 77)
    assert first_pixel(PIL.Image.new("1", (4, 4), 1)) == (255, 255, 255)
    red = first_pixel(PIL.Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert red == pytest.approx((255, 0, 0), abs=4)


def test_the_first_frame_of_an_animation() -> None:
    frames = [PIL.Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    assert first_pixel(frames[0], "GIF", save_all=True, append_images=frames[1:]) == (255, 0, 0)
    assert first_pixel(frames[0], "PNG", save_all=True, append_images=frames[1:]) == (255, 0, 0)


def test_exif_orientation_is_applied_to_image_and_size() -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    data = encoded(PIL.Image.new("RGB", (30, 10)), "JPEG", exif=exif)
    assert decode(Source(data=data)).size == (10, 30)
    assert header_size(Source(data=data)) == (10, 30)


def test_float_pixels_are_refused() -> None:
    data = encoded(PIL.Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF")
    with pytest.raises(BadImage, match="float"):
        decode(Source(data=data))


NOISE = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8))


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_truncated_files_are_damaged(image_format: str) -> None:
    data = encoded(NOISE, image_format)
    with pytest.raises(BadImage, match=r"damaged|not an image"):
        decode(Source(data=data[: len(data) // 2]))


@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
def test_the_cheap_check_sees_truncation(image_format: str) -> None:
    data = encoded(NOISE, image_format)
    assert header_size(Source(data=data)) == (60, 60)
    with pytest.raises(BadImage, match="damaged"):
        header_size(Source(data=data[:-200]))


@pytest.mark.parametrize("data", [b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a"])
def test_what_is_no_image_is_named(data: bytes) -> None:
    for action in (decode, header_size):
        with pytest.raises(BadImage, match=r"not an image|damaged"):
            action(Source(data=data))


def test_decompression_bombs_are_refused_before_decoding(monkeypatch) -> None:
    monkeypatch.setattr(_images, "MOST_PIXELS", 50)
    data = encoded(PIL.Image.new("1", (10, 10)))
    for action in (decode, header_size):
        with pytest.raises(BadImage, match="10 x 10 pixels"):
            action(Source(data=data))


def test_pillows_own_line_for_bombs(monkeypatch) -> None:
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(BadImage, match="too many pixels"):
        header_size(Source(data=encoded(PIL.Image.new("1", (10, 10)))))


def test_a_sliver_is_refused() -> None:
    with pytest.raises(BadImage, match="200 times"):
        header_size(Source(data=encoded(PIL.Image.new("RGB", (401, 2)))))


# --- cells


def test_cells_of_every_kind(tmp_path) -> None:
    data = encoded(PIL.Image.new("RGB", (8, 6), "red"))
    (tmp_path / "a.png").write_bytes(data)
    text = base64.b64encode(data).decode()
    cells = [
        "a.png",
        str(tmp_path / "a.png"),
        data,
        text,
        f"data:image/png;base64,{text}",
        {"bytes": data, "path": "elsewhere.png"},
        {"bytes": None, "path": "a.png"},
        {"bytes": text},
        ["a.png"],
    ]
    for cell in cells:
        assert header_size(source(cell, tmp_path)) == (8, 6)
        assert decode(source(cell, tmp_path)).getpixel((0, 0)) == (255, 0, 0)
    assert all(source(cell, tmp_path) is None for cell in (None, "", [], {"bytes": None}))


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (["a.png", "b.png"], "2 images"),
        ("https://example.org/a.png", "nothing is fetched"),
        (7, "int"),
        ("data:image/png;base64,@@@", "base64"),
    ],
)
def test_cells_that_hold_no_image(cell, message, tmp_path) -> None:
    with pytest.raises(BadImage, match=message):
        source(cell, tmp_path)


def test_missing_files_and_folders_are_named(tmp_path) -> None:
    with pytest.raises(BadImage, match=r"nowhere\.png' does not exist"):
        header_size(source("nowhere.png", tmp_path))
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(BadImage, match=r"folder\.png"):
        header_size(source("folder.png", tmp_path))


def test_the_fingerprint_follows_the_content(tmp_path) -> None:
    file = tmp_path / "a.bin"
    seen = set()
    for content in (b"a", b"b", b"a" * 200_000, b"a" * 199_999 + b"b", b"b" + b"a" * 199_999):
        file.write_bytes(content)
        seen.add(fingerprint(Source(file=file)))
    file.unlink()
    seen.add(fingerprint(Source(file=file)))
    assert len(seen) == 6
