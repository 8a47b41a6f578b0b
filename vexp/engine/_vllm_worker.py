"""What vLLM's own workers can do beside what vLLM has them do. Mixed into them by their name.

With tensor parallelism, there are several of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from vexp.engine._vllm_images import FAMILIES

NAME = f"{__name__}.Serves"


class Serves:
    """Each takes its part of the weights, and sees images as the policy does."""

    get_model: Any  # vLLM's worker has both
    reload_weights: Any

    def adapt(self, family: str, weights: str) -> None:
        """Change vLLM's model where it would see an image otherwise than the policy does."""
        FAMILIES[family].adapt(self.get_model(), weights)

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
