"""An annotation's configuration from conf files, a file of the user's and overrides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from vexp.annotate.spec import PRIMARY, Annotation
from vexp.config.compose import compose
from vexp.config.schema import build
from vexp.errors import ConfigError, DataError, Problem

_TABLES = (".jsonl", ".ndjson", ".parquet")


def resolve(
    overrides: Sequence[str], *, config_dirs: Iterable[Path] = (), files: Sequence[Path] = ()
) -> Annotation:
    """Compose and type an annotation.

    Raises:
        ConfigError: with every problem found, each with its origin.
    """
    missing = [Problem("there is no such file", where=str(f)) for f in files if not f.is_file()]
    if missing:
        raise ConfigError(missing)
    found: list[Problem] = []
    composed = compose(
        overrides, config_dirs=config_dirs, found=found, primary=PRIMARY, files=files
    )
    try:
        spec = build(Annotation, composed.values, composed.reading())
    except ConfigError as error:
        raise ConfigError([*found, *error.problems]) from None
    if found:
        raise ConfigError(found)
    return spec


def table_in(data: Path) -> Path:
    """The table of training items that `--data` names: the file, or train.* in the folder.

    Raises:
        DataError: if there is none.
    """
    if data.is_file():
        return data
    for suffix in _TABLES:
        if (data / f"train{suffix}").is_file():
            return data / f"train{suffix}"
    raise DataError(
        "there is no table of training items here",
        where=str(data),
        accepted=f"a folder with train{' or train'.join(_TABLES)}, or such a file",
    )
