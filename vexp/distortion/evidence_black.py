"""The evidence blacked out, or as a control as much of the rest."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vexp.distortion.base import Distortion
from vexp.registry import register

if TYPE_CHECKING:
    import numpy as np
    from numpy.random import Generator
    from numpy.typing import NDArray

    from vexp.dataset.base import Item


@register("distortion", "evidence_black")
@dataclass(frozen=True, kw_only=True)
class EvidenceBlack(Distortion):
    """Black inside the evidence boxes; with `control`, random regions of their sizes elsewhere.

    An intervention in the sense of Faithful-MR1, whose own is not stated: does the answer change
    without its evidence, and only then?

    Every pixel that a box touches is black. A control region keeps clear of all boxes and of the
    other control regions; where there is no room for that, it overlaps them as little as it can.
    The boxes stay with the item: they say where the evidence was.

    Breaks with incomplete boxes (the answer still shows elsewhere) and with a box as large as the
    image, whose control is the box itself.
    """

    needs = ("boxes",)

    control: bool = False  # black out regions of the same sizes without evidence instead

    @property
    def random(self) -> bool:
        return self.control

    def apply(self, item: Item, noise: Generator) -> Item:
        if item.image is None:
            return item
        import numpy as np
        from PIL import Image

        pixels = np.array(item.image)
        evidence = np.zeros(pixels.shape[:2], dtype=bool)
        regions = list(_regions(item))
        for rows, columns in regions:
            evidence[rows, columns] = True
        black = _elsewhere(regions, evidence, noise) if self.control else evidence
        pixels[black] = 0
        return dataclasses.replace(item, image=Image.fromarray(pixels))


def _regions(item: Item) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the pixels that each box touches; none for a box without an area."""
    assert item.image is not None
    width, height = item.image.size
    for x1, y1, x2, y2 in item.boxes:
        if not all(map(math.isfinite, (x1, y1, x2, y2))) or x1 >= x2 or y1 >= y2:
            continue
        left, right = max(0, math.floor(x1)), min(width, math.ceil(x2))
        top, bottom = max(0, math.floor(y1)), min(height, math.ceil(y2))
        if left < right and top < bottom:
            yield slice(top, bottom), slice(left, right)


def _elsewhere(
    regions: list[tuple[slice, slice]], evidence: NDArray[np.bool_], noise: Generator
) -> NDArray[np.bool_]:
    """Regions of the same sizes, each at a place drawn from those that overlap others least."""
    import numpy as np

    found = np.zeros_like(evidence)
    for rows, columns in regions:
        height, width = rows.stop - rows.start, columns.stop - columns.start
        # How much of each possible region is taken, from sums over all rectangles at the corner.
        sums = np.pad((evidence | found).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
        below, above = sums[height:], sums[:-height]
        overlap = below[:, width:] - below[:, :-width] - above[:, width:] + above[:, :-width]
        places = np.flatnonzero(overlap == overlap.min())
        top, left = divmod(int(noise.choice(places)), overlap.shape[1])
        found[top : top + height, left : left + width] = True
    return found
