"""A sweep from the command line alone: `vexp launch credit=uniform,vicra seed=1,2,3`.

It is written as a sweep file below `results/sweeps`, so that it can be named, read and changed.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vexp import masking
from vexp.config.compose import options_of
from vexp.config.folders import search_dirs
from vexp.config.grammar import interval_problem, is_interval, read_override
from vexp.errors import ConfigError, Problem, suggest
from vexp.paths import expanded, is_file

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Glob, Override, RangeSweep

_MOST = 100_000  # values of a range
KEPT = "# vexp launch "  # begins the file
_LONGEST = 60  # characters of a name, before its hash


def is_adhoc(given: str) -> bool:
    """Whether what stands in a sweep's place is an override."""
    deletes = given.startswith("~") and not given.startswith("~/") and not given.endswith(".yaml")
    return ("=" in given or deletes) and not is_file(Path(given))


def adhoc_sweep(
    overrides: Sequence[str], results_dir: str = "results", config_dirs: Iterable[Path] = ()
) -> tuple[Path, str]:
    """The file that keeps such a sweep, and its content; equal overrides give the same file.

    `glob(…)` chooses among the options there are in the conf folders. Secrets
    among them are named, not written.

    Raises:
        ConfigError: for overrides that cannot be parsed, all at once.
    """
    overrides = [masking.named(masking.by_name(text)) for text in overrides]
    parsed = _parse(overrides, search_dirs(config_dirs))
    base, axes, seeds = [], {}, None
    for override, values in parsed:
        text = override.input_line or ""
        if not override.is_sweep_override():
            base.append(text)
            if override.key_or_group == "results_dir":
                results_dir = str(expanded(str(override.value())))
        elif override.key_or_group == "seed":
            seeds = values
        else:
            axes[override.get_key_element()] = values
    told = "".join(sign if sign.isprintable() else " " for sign in " ".join(overrides))
    lines = [f"{KEPT}{told}"]
    lines += [f"base: {json.dumps(base, ensure_ascii=False)}"] if base else []
    if axes:
        lines += ["axes:", *(f"  {json.dumps(k)}: {_flow(values)}" for k, values in axes.items())]
    else:
        lines += ["rows: {run: []}"]
    lines += [f"seeds: {_flow(seeds)}"] if seeds is not None else []
    return Path(results_dir) / "sweeps" / f"{_name(overrides)}.yaml", "\n".join(lines) + "\n"


def _parse(overrides: Sequence[str], dirs: tuple[Path, ...]) -> list[tuple[Override, list[Any]]]:
    """The overrides, each with the values that it names if it names several."""
    found: list[tuple[Override, list[Any]]] = []
    problems: list[Problem] = []
    for text in overrides:
        where = f"command line `{text}`"
        try:
            override = read_override(text, where)
            several = override.is_sweep_override()
            found.append((override, _values(override, where, dirs) if several else []))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return found


def _values(override: Override, where: str, dirs: tuple[Path, ...]) -> list[Any]:
    """What a sweep override names, in order.

    Raises:
        ConfigError: if these are no values, none, or more than anybody runs.
    """
    from hydra.core.override_parser.types import Glob, RangeSweep, Transformer

    given: Any = override.value()
    if is_interval(override):
        raise ConfigError(interval_problem(override, where))
    if isinstance(given, Glob):
        return _matching(given, override.key_or_group, where, dirs)
    if isinstance(given, RangeSweep):
        _check_range(given, where)
    values = list(override.sweep_iterator(transformer=Transformer.identity))
    if isinstance(given, RangeSweep):
        return [_counted(value, given) for value in values]
    return [_plain(value) for value in values]


def _matching(given: Glob, group: str, where: str, dirs: tuple[Path, ...]) -> list[str]:
    """The options of a group that a `glob(…)` means."""
    options = sorted(options_of(group, dirs))
    chosen: list[str] = given.filter(options)
    if chosen:
        return chosen
    accepted = suggest("", options) if options else ""
    what = (
        f"no option of {group!r} matches" if options else f"{group!r} has no options to choose from"
    )
    remedy = "" if options else f"list the values: {group}=a,b"
    raise ConfigError(Problem(what, where=where, accepted=accepted, remedy=remedy))


def _check_range(given: RangeSweep, where: str) -> None:
    start, stop, step = (float(n or 0) for n in (given.start, given.stop, given.step))
    count = (stop - start) / step if step and math.isfinite(stop - start) else math.nan
    if not 0 < count <= _MOST:
        what = "this range has no end" if math.isnan(count) else "this range is empty"
        what = what if not count > 0 else f"this range has more than {_MOST:,} values"
        accepted = "range(start,stop,step): from start up to, and without, stop"
        raise ConfigError(Problem(what, where=where, accepted=accepted))


def _counted(value: Any, sweep: RangeSweep) -> Any:
    """A value of a range as it is written by hand: 0.3, where Hydra has 0.30000000000000004."""
    if not isinstance(value, float):
        return value
    start, step = Decimal(str(sweep.start)), Decimal(str(sweep.step))
    return float(start + round((Decimal(repr(value)) - start) / step) * step)


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
