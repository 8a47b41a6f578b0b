"""From numbers back to an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image


def as_image(values: NDArray[np.float64]) -> Image:  # [row, column, channel]
    """An RGB image of values on the scale 0 to 255: rounded, and clipped to it."""
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
