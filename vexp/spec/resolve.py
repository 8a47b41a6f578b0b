"""A run from overrides: composed, typed and checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from vexp.config.compose import compose
from vexp.config.schema import ConfigReading, build
from vexp.errors import ConfigError, Problem
from vexp.spec.run import RunSpec


def resolve(
    overrides: Sequence[str],
    *,
    config_dirs: Iterable[Path] = (),
    source: str | Sequence[str] = "override",
) -> RunSpec:
    """Compose and type a run in one go.

    Raises:
        ConfigError: with every problem found, each with its origin.
    """
    return resolve_with_origins(overrides, config_dirs=config_dirs, source=source)[0]


def resolve_with_origins(
    overrides: Sequence[str],
    *,
    config_dirs: Iterable[Path] = (),
    source: str | Sequence[str] = "override",
) -> tuple[RunSpec, ConfigReading]:
    """As `resolve`; with the reading, which knows where each value came from."""
    problems: list[Problem] = []
    composed = compose(overrides, config_dirs=config_dirs, source=source, found=problems)
    reading = composed.reading()
    try:
        run = build(RunSpec, composed.values, reading)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    if problems:
        raise ConfigError(problems)
    return run, reading
