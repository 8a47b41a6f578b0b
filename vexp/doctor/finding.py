"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

# "ok"; "absent": not there, and that is fine; "missing": needed by this config, and not there.
State = Literal["ok", "absent", "missing"]


@dataclass(frozen=True)
class Finding:
    """What was found of a thing, and for what is missing what to do."""

    name: str
    state: State
    detail: str = ""
    remedy: str = ""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def package_version(name: str) -> str | None:
    """The installed version of a package; nothing is imported."""
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
