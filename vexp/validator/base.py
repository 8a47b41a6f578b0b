"""What judges a box: does it hold something that the answer depends on?"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from vexp.registry import Component

if TYPE_CHECKING:
    from vexp.dataset.base import Box, Item
    from vexp.endpoint.request import Ask


class Validator(Component):
    """Accepts or rejects one proposed box."""

    kind: ClassVar[str] = "validator"

    @abstractmethod
    def accepts(self, item: Item, phrase: str, box: Box, ask: Ask) -> bool:
        """Whether the box, in pixels and inside the image, holds evidence for the answer.

        `phrase` is empty for a box that came with the data. The item has an image.

        Raises:
            EndpointError: if whoever is asked gives no answer that can be read.
        """
