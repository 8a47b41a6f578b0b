"""Which file a sweep's name means."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vexp.errors import ConfigError, Problem, suggest
from vexp.paths import expanded, is_file, shipped


def find_sweep(given: str) -> Path:
    """The sweep file `given` names: a path, or a name in ./sweeps or among those that ship.

    Raises:
        ConfigError: if there is none; names the close matches.
    """
    path = expanded(given)
    if is_file(path):
        return path
    for folder in _folders():
        named = folder / f"{given}.yaml"
        if is_file(named):
            return named
    known = dict.fromkeys(
        str(file.relative_to(folder).with_suffix(""))
        for folder in _folders()
        for file in sorted(folder.rglob("*.yaml"))
    )
    raise ConfigError(
        Problem(
            f"there is no sweep {given if len(given) <= 200 else given[:200] + ' …'!r}",
            where="the command line",
            accepted=suggest(given, known, noun="sweeps"),
            remedy="or give the path of a YAML file",
        )
    )


def _folders() -> Iterator[Path]:
    yield Path("sweeps")
    yield Path("results") / "sweeps"  # those that were launched without a file
    yield shipped("sweeps")
