"""Worker processes on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vexp.config.types import PositiveInt
from vexp.launcher.base import Launcher
from vexp.registry import register

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@register("launcher", "local")
@dataclass(frozen=True, kw_only=True)
class Local(Launcher):
    """Worker processes on this machine; they go on when the terminal closes.

    Each worker holds a numbered slot, so that however often and from however many shells a sweep is
    launched, no more than `workers` of them are at work on it.
    """

    workers: PositiveInt = 2  # runs at the same time
    threads: PositiveInt | None = None  # CPU threads per run; null: the cores shared out evenly
    environment: dict[str, str] = field(default_factory=dict)  # variables set for the runs
