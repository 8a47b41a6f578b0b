"""What a target is: from evidence boxes to a distribution over an image's tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vexp.registry import Component

if TYPE_CHECKING:
    from torch import Tensor

    from vexp.dataset.base import Box


@dataclass(frozen=True, kw_only=True)
class Target(Component):
    """Where attention should go, given the evidence."""

    kind: ClassVar[str] = "target"

    @abstractmethod
    def distribution(self, boxes: Sequence[Box], grid: tuple[int, int]) -> Tensor:  # [image token]
        """A distribution over the tokens of one image, float32, row by row; sums to 1.

        `boxes` (at least one) are clipped and relative to the image (0 to 1 along each side);
        `grid` is rows and columns of image tokens.
        """
