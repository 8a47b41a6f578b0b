"""What vLLM's own workers can do beside what vLLM has them do. Mixed into them by their name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

NAME = f"{__name__}.TakesWeights"


class TakesWeights:
    """With tensor parallelism, each of several processes takes its part of the weights."""

    reload_weights: Any  # vLLM's worker has it

    def take_weights(self, path: str) -> None:
        """Serve the weights of a file in safetensors' format from now on."""
        self.reload_weights(weights_iterator=_read(Path(path)))


def _read(path: Path) -> Iterator[tuple[str, Tensor]]:
    """One after the other, from memory that the processes share."""
    from safetensors import safe_open

    opened: Any = safe_open(path, framework="pt")
    with opened as file:
        for name in file.keys():  # noqa: SIM118  (it is no dictionary)
            yield name, file.get_tensor(name)
