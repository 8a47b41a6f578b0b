"""What a picture of one response needs, small enough for a line of samples.jsonl.

image      data URL: PNG, or JPEG where that is much smaller; at most SIDE pixels a side
boxes      the evidence, [x1, y1, x2, y2] in shares of the image's width and height
tokens     the text of each response token; the first MOST_TOKENS of them
values     name -> a number for each of these tokens, or null where it is not defined
attention  layer, rows, columns, most, data: base64 of the zlib-compressed bytes
           [token, row, column]; a byte b is the share b / 255 * most of the attention on the
           image, mean over heads
"""

from __future__ import annotations

import base64
import io
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from vexp.experience.batch import Experience
    from vexp.policy.policy import Policy

SIDE = 448  # pixels
MOST_TOKENS = 512
_SMALL = 64 * 1024  # bytes of a PNG that is kept as it is


def picture(
    batch: Experience, policy: Policy, row: int, layer: int, values: Mapping[str, Tensor]
) -> dict[str, Any]:
    """The record of response `row`; `values` are [rollout, token]. One forward pass.

    `layer` is the decoder layer whose attention is kept.
    """
    prompt = int(batch.group[row])
    length = min(int(batch.mask[row].sum()), MOST_TOKENS)
    single = [[token] for token in batch.tokens[row, :length].tolist()]
    found: dict[str, Any] = {
        "tokens": policy.tokenizer.batch_decode(single),
        "values": {name: _rounded(own[row, :length].tolist()) for name, own in values.items()},
    }
    image = batch.items[prompt].image if batch.items else None
    if image is not None and batch.layouts and batch.layouts[prompt]:
        from vexp.diagnostics.attention_map import attention_map
        from vexp.probe.layout import on_finest

        boxes = batch.evidence[prompt] if batch.evidence else ()
        found["image"] = image_data(image)
        found["boxes"] = [_rounded(box) for box in boxes]
        shares = attention_map(batch, policy, row, layer)[:length]
        drawn = on_finest(shares, batch.layouts[prompt])
        found["attention"] = {"layer": layer, **quantised(*drawn)}
    return found


def quantised(shares: Tensor, grid: tuple[int, int]) -> dict[str, Any]:
    """Shares [token, image token] in 8 bits; an error of at most most / 510."""
    import torch

    most = float(shares.max()) if shares.numel() else 0.0
    steps = (shares / (most or 1.0) * 255).round().to(torch.uint8)
    data = base64.b64encode(zlib.compress(steps.contiguous().numpy().tobytes(), 9)).decode()
    return {"rows": grid[0], "columns": grid[1], "most": round(most, 6), "data": data}


def image_data(image: Image) -> str:
    """The image as a data URL."""
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    kind, content = "png", _encoded(small, "PNG", optimize=True)
    if len(content) > _SMALL:
        kind, content = "jpeg", _encoded(small, "JPEG", quality=88)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _encoded(image: Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _rounded(values: Sequence[float]) -> list[float | None]:
    return [round(value, 4) if math.isfinite(value) else None for value in values]
