"""What finds a phrase in an image: one box, or none."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vexp.registry import Component

if TYPE_CHECKING:
    from vexp.dataset.base import Box, Item
    from vexp.endpoint.request import Ask


@dataclass(frozen=True)
class Located:
    """Where a phrase was found; the box may reach out of the image, the caller clips it."""

    box: Box  # x1, y1, x2, y2 in pixels of the item's own image
    confidence: float | None = None  # as the localizer measures it


class Localizer(Component):
    """Finds the region that a phrase names."""

    kind: ClassVar[str] = "localizer"
    asks: ClassVar[bool] = True  # False: it works here, and a dry run has nothing to count

    @abstractmethod
    def locate(self, item: Item, phrase: str, ask: Ask) -> Located | None:
        """The one best region for the phrase; None where it sees none. The item has an image.

        Raises:
            EndpointError: if whoever is asked gives no answer that can be read.
        """
