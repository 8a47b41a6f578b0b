"""Results of one's own: a CSV or JSON file with one row for each run and benchmark."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vexp.errors import ConfigError, Problem, suggest
from vexp.runs.imports.measured import Foreign

REQUIRED = ("run", "benchmark", "value")
OPTIONAL = ("metric", "stderr", "n", "version", "decoding", "scale")
SCALES = {"share": 1.0, "percent": 0.01, "points": 1.0}


def read(path: Path) -> list[Foreign]:
    """All rows of the file.

    Raises:
        ConfigError: with every problem of every row: unknown and missing columns, values that are
            no numbers or not on the scale they say, and rows that stand twice.
    """
    problems: list[Problem] = []
    found: list[Foreign] = []
    seen: dict[tuple[str, str], str] = {}
    for where, row in _rows(path):
        problems += [Problem(what, where=where, accepted=more) for what, more in _wrong(row)]
        key = (str(row.get("run")), str(row.get("benchmark")))
        if key in seen:
            problems.append(
                Problem(
                    f"run {key[0]!r} and benchmark {key[1]!r} stand twice",
                    where=f"{seen[key]} and {where}",
                    remedy="keep the row that should count; nothing is averaged",
                )
            )
        seen[key] = where
        if not problems:
            found.append(_foreign(row, path))
    if problems:
        raise ConfigError(problems)
    return found


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        text = path.read_text("utf-8")
        if path.suffix == ".csv":
            reader = csv.DictReader(text.splitlines())
            for row in reader:
                filled = {str(k): v for k, v in row.items() if v not in ("", None)}
                yield f"{path}:{reader.line_num}", filled
            return
        content = json.loads(text)
    except (OSError, ValueError, csv.Error) as error:
        what = f"this file is damaged: {error}"
        raise ConfigError(Problem(what, where=str(path), accepted=_accepted())) from error
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ConfigError(Problem("expected a list of rows", where=str(path), accepted=_accepted()))
    yield from ((f"{path}: row {number}", row) for number, row in enumerate(content, start=1))


def _accepted() -> str:
    return f"columns {', '.join(REQUIRED)}, and optionally {', '.join(OPTIONAL)}"


def _wrong(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in row.keys() - {*REQUIRED, *OPTIONAL}:
        yield f"there is no column {name!r}", suggest(name, (*REQUIRED, *OPTIONAL))
    for name in REQUIRED:
        if row.get(name) in (None, ""):
            yield f"{name!r} is missing", _accepted()
    scale = str(row.get("scale", "share"))
    if scale not in SCALES:
        yield f"{scale!r} is not a scale", suggest(scale, SCALES)
    for name in ("value", "stderr", "n"):
        if row.get(name) in (None, ""):
            continue
        number = _float(row[name])
        if number is None or not math.isfinite(number):
            yield f"{name} is {row[name]!r}, which is no number", ""
        elif name == "value" and scale != "points" and not 0 <= number * SCALES.get(scale, 1) <= 1:
            top = "0 to 1" if scale == "share" else "0 to 100"
            yield f"value is {number:g}, but its scale is {scale}", f"{scale}: {top}; or `points`"


def _foreign(row: Mapping[str, Any], path: Path) -> Foreign:
    factor = SCALES[str(row.get("scale", "share"))]
    stderr = _float(row.get("stderr"))
    return Foreign(
        benchmark=str(row["benchmark"]),
        metric=str(row.get("metric", "score")),
        value=float(row["value"]) * factor,
        stderr=None if stderr is None else stderr * factor,
        n=int(float(row["n"])) if row.get("n") else None,
        version=str(row.get("version", "")),
        decoding=str(row.get("decoding", "")),
        run=str(row["run"]),
        source=path,
        about={"tool": "a file of one's own"},
    )


def _float(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
