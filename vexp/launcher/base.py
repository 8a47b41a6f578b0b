"""What a launcher is: where the runs of a sweep run."""

from __future__ import annotations

from typing import ClassVar

from vexp.registry import Component


class Launcher(Component):
    """Starts workers for a sweep; what it submits is only "work on run X"."""

    kind: ClassVar[str] = "launcher"
