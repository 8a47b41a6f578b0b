"""What was measured on: processor, cores, load and versions; no names of hosts or folders."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("vexp", "torch", "transformers", "trl", "accelerate", "numpy")


def describe() -> dict[str, Any]:
    """The machine now, with its load, as one JSON object."""
    return {
        "processor": _processor(),
        "cores": _cores(),
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _cores() -> int | None:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    if package == "vexp":
        import vexp

        return vexp.__version__
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
