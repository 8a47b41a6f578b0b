"""The conf folders: where files are looked for, and reading them once."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vexp.config import scalars
from vexp.errors import ConfigError, Problem
from vexp.paths import shipped


def search_dirs(config_dirs: Iterable[Path] = ()) -> tuple[Path, ...]:
    """The conf folders, first come first served; each only once.

    Raises:
        ConfigError: if one of `config_dirs` is no folder.
    """
    found = [Path(folder) for folder in config_dirs]
    missing = [folder for folder in found if not folder.is_dir()]
    if missing:
        raise ConfigError(
            [
                Problem(f"config folder {str(m)!r} does not exist", where="--config-dir")
                for m in missing
            ]
        )
    project = Path("conf")
    if project.is_dir():
        found.append(project)
    found.append(shipped("conf"))
    return tuple(dict.fromkeys(folder.resolve() for folder in found))


def variants(kind: str, dirs: Iterable[Path]) -> list[str]:
    """Names of the YAML files of a group in all conf folders."""
    return sorted({path.stem for folder in dirs for path in (folder / kind).glob("*.yaml")})


def variant(kind: str, name: str, dirs: Iterable[Path]) -> Mapping[str, Any] | None:
    """The content of `conf/<kind>/<name>.yaml`, or None."""
    path = find(f"{kind}/{name}", dirs)
    if path is None:
        return None
    return {key: value for key, value in load(path).items() if key != "defaults"}


@functools.lru_cache(maxsize=512)
def _read(path: Path, _mtime_ns: int) -> scalars.LocatedMapping:
    return scalars.load_yaml(path)


def load(path: Path) -> scalars.LocatedMapping:
    """The content of a conf file, read again only when it changed."""
    return _read(path, path.stat().st_mtime_ns)


def find(config_path: str, dirs: Iterable[Path]) -> Path | None:
    """The first conf folder's file for `<group>/<option>`, or None."""
    for folder in dirs:
        path = folder / f"{config_path}.yaml"
        if path.is_file():
            return path
    return None


def short(path: Path) -> str:
    """A path as a user would write it: relative to here, or from conf/ on for shipped files."""
    for base, prefix in ((Path.cwd(), ""), (shipped("conf").parent, "")):
        if path.is_relative_to(base):
            return prefix + str(path.relative_to(base))
    return str(path)
