"""Code that a run names (`plugins`) is loaded unasked only where the run is one's own.

A run is foreign if `vexp import` brought it, or if its folder belongs to another user. What of its
code is trusted is kept in run.json by content, so a file that changes later is asked about again.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from pathlib import Path

from vexp.errors import RunError
from vexp.records import Run

TRUSTED = "trusted"  # key in run.json: file -> SHA-256 of what may be loaded


def is_foreign(folder: Path, record: Run) -> bool:
    """Whether somebody else may have written what the run's folder says."""
    if record.imported:
        return True
    return hasattr(os, "geteuid") and folder.stat().st_uid != os.geteuid()


def plugins_of(record: Run) -> tuple[str, ...]:
    """The files with code that a run's config names."""
    return tuple(map(str, record.config.get("plugins") or ()))


def digests(files: tuple[str, ...]) -> dict[str, str]:
    """SHA-256 of each of these files that is here."""
    found = {}
    for name in files:
        path = Path(name).expanduser()
        if path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def check(folder: Path, record: Run, origin: str) -> None:
    """Ask whether the code that a run names may be loaded without being told to.

    Raises:
        RunError: if the run is foreign and names code that nobody has trusted.
    """
    files = plugins_of(record)
    if not files or not is_foreign(folder, record):
        return
    trusted, here = record.trusted, digests(files)
    new = [name for name in files if name not in here or here[name] != trusted.get(name)]
    if not new:
        return
    owner = "was imported" if record.imported else "belongs to another user"
    changed = " (changed since it was trusted)" if any(name in trusted for name in new) else ""
    raise RunError(
        f"this run {owner}, and code that it names is not loaded unasked: "
        f"{', '.join(new)}{changed}",
        where=origin,
        remedy=f"read the code first; `vexp eval {shlex.quote(folder.name)} --trust` loads it",
    )
