"""Makes the published torchvision importable beside a CPU-only torch, for vLLM's tests.

The wheel is a CUDA build: its compiled operators cannot load, and then its Python part, which is
all that vLLM's image processors need, fails on the first operator it registers a shape for. Naming
the operators is enough. Where the wheel fits torch, nothing is done.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from pathlib import Path


class _Torchvision(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "torchvision":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            _name_operators(Path(spec.origin).with_name("_C.so"))
        return spec


def _name_operators(compiled: Path) -> None:
    import torch

    try:
        torch.ops.load_library(str(compiled))
    except OSError:
        _kept.append(torch.library.Library("torchvision", "DEF"))
        for operator in ("nms", "qnms"):
            _kept[0].define(f"{operator}(Tensor dets, Tensor scores, float threshold) -> Tensor")


_kept: list = []  # an operator lives as long as the library that defines it
sys.meta_path.insert(0, _Torchvision())
