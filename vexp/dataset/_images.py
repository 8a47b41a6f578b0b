"""Images of a table's cells: found as files or bytes, checked by their header, decoded to RGB."""

from __future__ import annotations

import base64
import hashlib
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from vexp.files import open_regular

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")

MOST_PIXELS = 178_956_970 // 2  # Pillow's own line for decompression bombs
MOST_STRETCHED = 200  # longer side over shorter side; Qwen's image processor refuses more
MOST_BYTES = 1 << 30  # of an image file; one with most pixels is smaller in every format
LONGEST_PATH = 4096  # characters
SAMPLED = 32 * 1024  # bytes at each end of a large image file that its fingerprint covers
_ROTATED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_ORIENTATION = 0x0112
# How base64 text of JPEG, PNG, GIF and WebP files begins; no path does.
_BASE64_STARTS = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR")
# The end that a whole file of a format has within its last bytes.
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND", "GIF": b"\x3b"}


class BadImage(ValueError):
    """An image that cannot be used; the message says why, the caller knows where."""


@dataclass(frozen=True)
class Source:
    """Where an image's bytes are: a file, or in memory."""

    file: Path | None = None
    data: bytes = b""

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        if self.file is None:
            yield io.BytesIO(self.data)
            return
        try:
            file = open_regular(self.file, most=MOST_BYTES)
        except FileNotFoundError:
            raise BadImage(f"image file {str(self.file)!r} does not exist") from None
        except (OSError, ValueError) as error:  # ValueError: a null character in the path
            reason = getattr(error, "strerror", None) or error
            raise BadImage(f"image file {str(self.file)!r}: {reason}") from error
        with file:
            yield file

    def __str__(self) -> str:
        return f"image file {str(self.file)!r}" if self.file else "the image's bytes"


def source(cell: Any, folder: Path) -> Source | None:
    """The image that a cell holds; None for an empty cell.

    A cell may be a path (relative to the table's folder), bytes, base64 text or a data URL, a
    {bytes, path} structure as Hugging Face datasets write it, or a list of one of these.

    Raises:
        BadImage: for anything else.
    """
    if isinstance(cell, list | tuple):
        if len(cell) > 1:
            raise BadImage(f"{len(cell)} images in one row; one per question is supported")
        cell = cell[0] if cell else None
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    if cell is None or cell == "" or cell == b"":
        return None
    if isinstance(cell, bytes | bytearray):
        return Source(data=bytes(cell))
    if not isinstance(cell, str):
        raise BadImage(f"the image is a {type(cell).__name__}, not a path or bytes")
    if looks_encoded(cell):
        return Source(data=_from_base64(cell))
    if cell.startswith(("http://", "https://")):
        raise BadImage(
            f"{cell[:200]!r} is an address; nothing is fetched, save the image as a file"
        )
    if len(cell) > LONGEST_PATH:
        raise BadImage(f"the image is a text of {len(cell):,} characters, not a path")
    return Source(file=folder / cell)


def looks_encoded(text: str) -> bool:
    """True for base64 text of an image, and for a data URL."""
    return text.startswith("data:") or (len(text) > 64 and text.startswith(_BASE64_STARTS))


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text.partition(",")[2] or text, validate=True)
    except ValueError as error:  # binascii.Error, or characters beyond ASCII
        raise BadImage(f"the image's base64 text is damaged: {error}") from error


def header_size(found: Source) -> tuple[int, int]:
    """Width and height as displayed, from the header; nothing is decoded unless it looks cut off.

    Raises:
        BadImage: if the file is missing, no image, cut off, or too large.
    """
    with found.opened() as file:
        image = _opened(file, found)
        turned = _guarded(found, lambda: image.getexif().get(_ORIENTATION)) in _ROTATED
        if _looks_cut(file, image.format or ""):
            _guarded(found, image.load)
        width, height = image.size
    return (height, width) if turned else (width, height)


def decode(found: Source) -> Image:
    """The image as RGB, turned as its EXIF data says; the first frame of an animation.

    Transparent parts become white; 16-bit grey is scaled to 8 bits.

    Raises:
        BadImage: if it cannot be decoded whole.
    """
    from PIL import ImageOps

    with found.opened() as file:
        image = _opened(file, found)
        _guarded(found, image.load)
        turned: Image = _guarded(found, lambda: ImageOps.exif_transpose(image))
        return _guarded(found, lambda: _rgb(turned))


def fingerprint(found: Source) -> str:
    """Hash of an image's content: its size and bytes, of a large file only those at both ends.

    A missing file has a fingerprint of its own, so that naming a table never fails here.
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        with found.opened() as file:
            size = file.seek(0, io.SEEK_END)
            digest.update(b"%d:" % size)
            for start in sorted({0, max(0, size - SAMPLED)}):
                file.seek(start)
                digest.update(file.read(SAMPLED))
    except BadImage:
        digest.update(b"missing")
    return digest.hexdigest()


def _opened(file: BinaryIO, found: Source) -> Image:
    """The image with its header read; the size is checked before any pixel is."""
    import PIL.Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
        image: Image = _guarded(found, lambda: PIL.Image.open(file))
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise BadImage(f"{found} has {width} x {height} pixels, more than {MOST_PIXELS:,}")
    if max(width, height) > MOST_STRETCHED * min(width, height):
        raise BadImage(
            f"{found} is {width} x {height} pixels: one side is more than {MOST_STRETCHED} times "
            "the other"
        )
    return image


def _guarded(found: Source, action: Callable[[], T]) -> T:
    """Run a Pillow call; whatever it raises about the file becomes a `BadImage`."""
    import PIL
    import PIL.Image

    try:
        return action()
    except PIL.UnidentifiedImageError as error:
        raise BadImage(f"{found} is not an image that can be read") from error
    except PIL.Image.DecompressionBombError as error:
        raise BadImage(f"{found} has too many pixels, more than {MOST_PIXELS:,}") from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError) as error:
        if isinstance(error, BadImage):
            raise
        raise BadImage(f"{found} is damaged: {error}") from error


def _looks_cut(file: BinaryIO, image_format: str) -> bool:
    """Whether the end that a whole file of this format has is not there."""
    end = _ENDS.get(image_format)
    if end is None:
        return False
    place = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 32))
    missing = end not in file.read(32)
    file.seek(place)
    return missing


def _rgb(image: Image) -> Image:
    import PIL.Image

    if image.mode in ("I", "I;16", "I;16L", "I;16B", "I;16N"):
        return image.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
    if image.mode == "F":
        raise BadImage("the image has 32-bit float pixels; 8 or 16 bits per channel can be read")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        transparent = image.convert("RGBA")
        white = PIL.Image.new("RGBA", image.size, (255, 255, 255, 255))
        return PIL.Image.alpha_composite(white, transparent).convert("RGB")
    return image.convert("RGB")
