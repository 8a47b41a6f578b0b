"""Results of one's own: a CSV or JSON file with one row for each run and benchmark."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vexp.errors import ConfigError, Problem, suggest
from vexp.runs.imports.lmms_eval import as_float
from vexp.runs.imports.measured import Foreign
from vexp.runs.imports.reading import json_of, name_problem, shown, text_of

REQUIRED = ("run", "benchmark", "value")
OPTIONAL = ("metric", "stderr", "n", "version", "decoding", "scale")
_TEXTS = ("run", "benchmark", "metric", "version", "decoding", "scale")
_NAMES = ("run", "benchmark")
_MORE = "\0more"  # key of the cells behind the last column
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
    if not found:
        raise ConfigError(Problem("this file has no rows", where=str(path), accepted=_accepted()))
    return found


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        text = text_of(path, noun="file")
        if path.suffix.lower() == ".csv":
            yield from _csv_rows(path, text)
            return
        content = json_of(text)
    except (ValueError, csv.Error) as error:
        what = f"this file is damaged: {error}"
        raise ConfigError(Problem(what, where=str(path), accepted=_accepted())) from error
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ConfigError(Problem("expected a list of rows", where=str(path), accepted=_accepted()))
    for number, row in enumerate(content, start=1):
        yield f"{path}: row {number}", _filled(row)


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows of a CSV text, each with the line that it ends in; a quoted cell may hold line ends."""
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey=_MORE)
    names = list(reader.fieldnames or ())
    if twice := sorted({name for name in names if names.count(name) > 1}):
        what = f"two columns are called {', '.join(map(repr, twice))}"
        raise ConfigError(Problem(what, where=f"{path}:1", accepted=_accepted()))
    if lacking := [name for name in REQUIRED if name not in names]:
        what = f"there is no column {', '.join(map(repr, lacking))}"
        raise ConfigError(
            Problem(what, where=f"{path}:1", accepted=f"{_accepted()}, with commas between them")
        )
    for row in reader:
        yield f"{path}:{reader.line_num}", _filled(row)


def _filled(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: value for key, value in row.items() if value not in ("", None)}


def _accepted() -> str:
    return f"columns {', '.join(REQUIRED)}, and optionally {', '.join(OPTIONAL)}"


def _wrong(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if more := row.get(_MORE):
        cells = f"{len(more)} cell{'s' * (len(more) > 1)}"
        yield (
            f"this row has {cells} more than there are columns",
            "quote a value with a comma in it",
        )
    for name in sorted(row.keys() - {*REQUIRED, *OPTIONAL, _MORE}):
        yield f"there is no column {shown(name)}", suggest(name, (*REQUIRED, *OPTIONAL))
    for name in REQUIRED:
        if name not in row:
            yield f"{name!r} is missing", _accepted()
    for name in _TEXTS:
        if isinstance(row.get(name), list | dict | bool):
            yield f"{name} is {shown(row[name])}, which is no text", ""
        elif name in _NAMES and name in row and (problem := name_problem(row[name], f"a {name}")):
            yield problem.what, problem.accepted
    scale = str(row.get("scale", "share"))
    if scale not in SCALES:
        yield f"{shown(scale)} is not a scale", suggest(scale, SCALES)
    for name in ("value", "stderr", "n"):
        if name in row:
            yield from _wrong_number(name, row[name], scale)


def _wrong_number(name: str, value: object, scale: str) -> Iterator[tuple[str, str]]:
    number = as_float(value)
    if number is None or not math.isfinite(number):
        yield f"{name} is {shown(value)}, which is no number", ""
    elif name == "n" and not (1 <= number <= 1 << 53 and number.is_integer()):
        yield f"n is {shown(value)}, which is no count of samples", "a whole number from 1"
    elif name == "stderr" and number < 0:
        yield f"stderr is {number:g}, which is below zero", ""
    elif name == "value" and scale != "points" and not 0 <= number * SCALES.get(scale, 1) <= 1:
        top = "0 to 1" if scale == "share" else "0 to 100"
        yield f"value is {number:g}, but its scale is {scale}", f"{scale}: {top}; or `points`"


def _foreign(row: Mapping[str, Any], path: Path) -> Foreign:
    factor = SCALES[str(row.get("scale", "share"))]
    stderr = as_float(row.get("stderr"))
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
