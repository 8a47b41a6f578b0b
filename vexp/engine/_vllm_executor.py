"""vLLM in a training process whose GPU is not the first one. Needs vLLM."""

from __future__ import annotations

import torch
from vllm.v1.executor.uniproc_executor import UniProcExecutor


class OnThisDevice(UniProcExecutor):  # type: ignore[misc, unused-ignore]  # may not be installed
    """Computes on the GPU that this process computes on; vLLM alone in a process takes GPU 0."""

    def _distributed_args(self) -> tuple[str, int, int]:
        method, rank, _ = super()._distributed_args()
        return method, rank, torch.cuda.current_device()
