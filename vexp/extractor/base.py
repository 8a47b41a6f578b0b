"""What names the evidence: the fewest things that must be looked at to verify an answer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from vexp.registry import Component

if TYPE_CHECKING:
    from vexp.dataset.base import Item
    from vexp.endpoint.request import Ask


class Extractor(Component):
    """Names the evidence of a question, for a localizer to find."""

    kind: ClassVar[str] = "extractor"

    @abstractmethod
    def phrases(self, item: Item, ask: Ask) -> Sequence[str]:
        """Noun phrases, at best one for each thing; the caller filters and merges them.

        Raises:
            EndpointError: if whoever is asked gives no answer that can be read.
        """
