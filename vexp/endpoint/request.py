"""A question to a model: text and at most one image. Its key says when two are the same."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from vexp.endpoint.settings import Endpoint

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
_JPEG_QUALITY = 95


@dataclass(frozen=True, eq=False)
class Picture:
    """An image as it is sent: RGB, no larger than the endpoint's `max_pixels`."""

    image: Image

    @classmethod
    def of(cls, image: Image, max_pixels: int) -> Picture:
        """`image`, scaled down where it has more pixels than that."""
        width, height = image.size
        if width * height > max_pixels:
            scale = math.sqrt(max_pixels / (width * height))
            image = image.resize((max(1, int(width * scale)), max(1, int(height * scale))))
        return cls(image)

    @functools.cached_property
    def digest(self) -> str:
        """Hash of the size and the pixels."""
        return pixels_digest(self.image)

    def data_url(self) -> str:
        """The image as a JPEG in a data URL."""
        buffer = io.BytesIO()
        self.image.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


@dataclass(frozen=True)
class ChatRequest:
    """One question to one endpoint."""

    endpoint: Endpoint
    system: str
    question: str
    picture: Picture | None = None
    # Answers to this question that could not be read, each with the reason.
    misread: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        """Hash of all that can change the answer: equal requests are asked once."""
        picture = self.picture.digest if self.picture else None
        parts = (self.endpoint.base_url, self.endpoint.model, self._options(), self.system)
        text = json.dumps([*parts, self.question, picture, self.misread], sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def text(self) -> str:
        """All text that is sent."""
        again = [part for pair in self.misread for part in pair]
        return "\n".join([self.system, self.question, *again])

    def again(self, answer: str, reason: str) -> ChatRequest:
        """The same question, after an answer that could not be read."""
        return replace(self, misread=(*self.misread, (answer, reason)))

    def body(self) -> dict[str, Any]:
        """What is posted."""
        content: list[dict[str, Any]] = []
        if self.picture:
            content.append({"type": "image_url", "image_url": {"url": self.picture.data_url()}})
        content.append({"type": "text", "text": self.question})
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": self.system},
            {"role": "user", "content": content},
        ]
        for answer, reason in self.misread:
            messages.append({"role": "assistant", "content": answer})
            messages.append(
                {
                    "role": "user",
                    "content": f"This cannot be read: {reason}. Answer with JSON only.",
                }
            )
        options = self._options()
        options[self.endpoint.length_key] = options.pop("max_tokens")
        return {"model": self.endpoint.model, "messages": messages, **options}

    def _options(self) -> dict[str, Any]:
        found: dict[str, Any] = {"max_tokens": self.endpoint.max_tokens}
        if self.endpoint.temperature is not None:
            found["temperature"] = self.endpoint.temperature
        return found


class Ask(Protocol):
    """How a component asks its endpoint: answers are kept, so that nothing is asked twice."""

    def __call__(self, request: ChatRequest, read: Callable[[str], T]) -> T:
        """What `read` makes of the answer; where it raises ValueError, the question is put again.

        Raises:
            EndpointError: if there is no answer that can be read.
        """


def pixels_digest(image: Image) -> str:
    """Hash of an image's size, mode and pixels."""
    digest = hashlib.blake2b(f"{image.mode} {image.size}".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.hexdigest()


def text_digest(text: str) -> str:
    """Hash of a prompt."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
