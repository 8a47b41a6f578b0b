"""Where the arithmetic runs: the device, the number of threads, and accelerate."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from vexp.errors import ConfigError, Problem
from vexp.spec.run import Compute

_MEMORY: Any = torch.utils.deterministic  # its one setting is not in torch's type stubs


def device_name(compute: Compute) -> str:
    """`cpu` or `cuda`, as asked for or as there is.

    Raises:
        ConfigError: if a GPU is asked for and torch sees none.
    """
    available = torch.cuda.is_available()
    if compute.device == "cuda" and not available:
        raise ConfigError(
            Problem(
                "torch sees no GPU",
                where="compute.device=cuda",
                remedy="use compute.device=auto or cpu, or install a torch build for this GPU",
            )
        )
    return "cuda" if available and compute.device != "cpu" else "cpu"


@contextlib.contextmanager
def arithmetic(compute: Compute) -> Iterator[str]:
    """The device's name, with torch's global settings as `compute` asks, restored afterwards.

    On the CPU every operation is deterministic, so that a resumed run equals an uninterrupted one
    bit by bit; there this costs nothing. CUDA kernels are left as they are, except that products
    in bfloat16 are summed in float32 throughout, as in EasyR1.
    """
    device = device_name(compute)
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = _MEMORY.fill_uninitialized_memory
    products = torch.backends.cuda.matmul
    reduced = products.allow_bf16_reduced_precision_reduction
    try:
        if compute.threads is not None:
            torch.set_num_threads(compute.threads)
        if device == "cpu":
            torch.use_deterministic_algorithms(True, warn_only=True)
            _MEMORY.fill_uninitialized_memory = False
        else:
            products.allow_bf16_reduced_precision_reduction = False
        yield device
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        _MEMORY.fill_uninitialized_memory = fill
        products.allow_bf16_reduced_precision_reduction = reduced


def make_accelerator(compute: Compute) -> Accelerator:
    """An accelerator for this run, whatever ran before it in this process.

    Its mixed precision stays off: the policy itself autocasts, in the sampler as in the trainer.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    device = device_name(compute)
    # Where DeepSpeed is installed transformers imports it to save a model, and it asks for this.
    os.environ.setdefault("DS_ACCELERATOR", device)
    return Accelerator(cpu=device == "cpu", mixed_precision="no")
