"""A sweep from the command line alone: `vexp launch credit=uniform,vicra seed=1,2,3`.

It is written as a sweep file below `results/sweeps`, so that it can be named, read and changed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vexp.errors import ConfigError, Problem

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

_LONGEST = 60  # characters of a name, before its hash


def is_adhoc(given: str) -> bool:
    """Whether what stands in a sweep's place is an override."""
    return ("=" in given or given.startswith("~")) and not Path(given).expanduser().is_file()


def adhoc_sweep(overrides: Sequence[str], results_dir: str = "results") -> tuple[Path, str]:
    """The file that keeps such a sweep, and its content; equal overrides give the same file.

    Raises:
        ConfigError: for overrides that cannot be parsed, all at once.
    """
    parsed = _parse(overrides)
    base, axes, seeds = [], {}, None
    for override in parsed:
        text = override.input_line or ""
        if not override.is_sweep_override():
            base.append(text)
            if override.key_or_group == "results_dir":
                results_dir = str(override.value())
        elif override.key_or_group == "seed":
            seeds = _values(override)
        else:
            axes[override.get_key_element()] = _values(override)
    told = "".join(sign if sign.isprintable() else " " for sign in " ".join(overrides))
    lines = [f"# vexp launch {told}"]
    lines += [f"base: {json.dumps(base, ensure_ascii=False)}"] if base else []
    if axes:
        lines += ["axes:", *(f"  {json.dumps(k)}: {_flow(values)}" for k, values in axes.items())]
    else:
        lines += ["rows: {run: []}"]
    lines += [f"seeds: {_flow(seeds)}"] if seeds is not None else []
    return Path(results_dir) / "sweeps" / f"{_name(overrides)}.yaml", "\n".join(lines) + "\n"


def _parse(overrides: Sequence[str]) -> list[Override]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, found = OverridesParser.create(), []
    problems: list[Problem] = []
    for text in overrides:
        try:
            found.append(parser.parse_override(text))
        except HydraException as error:
            what = str(error).splitlines()[0].removeprefix("Error parsing override ")
            problems.append(
                Problem(
                    f"this is not an override: {what}",
                    where=f"command line `{text}`",
                    accepted="key=value, or key=a,b for several runs (Hydra's grammar)",
                )
            )
    if problems:
        raise ConfigError(problems)
    return found


def _values(override: Override) -> list[Any]:
    """What a sweep override names, in order."""
    from hydra.core.override_parser.types import Transformer

    return [_plain(value) for value in override.sweep_iterator(transformer=Transformer.identity)]


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    return getattr(value, "text", value)  # a quoted string knows its quotes


def _flow(values: list[Any] | None) -> str:
    return json.dumps(values, ensure_ascii=False)


def _name(overrides: Sequence[str]) -> str:
    shown = re.sub(r"[^A-Za-z0-9._+-]+", "_", "-".join(overrides)).strip("_-.+")
    digest = hashlib.sha256(json.dumps(list(overrides)).encode()).hexdigest()[:6]
    return f"{shown[:_LONGEST].rstrip('_-.=')}-{digest}"
