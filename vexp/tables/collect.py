"""The results that a sweep's table is made of, read from run folders; nothing is computed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vexp.errors import RunError
from vexp.files import read_lines, read_text
from vexp.runs import evaluations
from vexp.runs.claim import attempt_folder
from vexp.runs.store import RunFolder, RunStore
from vexp.runs.switch import effective, mixed
from vexp.runs.workspace import TIMINGS
from vexp.sweeps.points import Training
from vexp.tables.cells import Measurements, Results, Score

_KEYS = {"format", "name", "key", "metrics"}
_DECODER = json.JSONDecoder()


def collect(declared: Iterable[Training], store: RunStore, *, costs: bool = False) -> Results:
    """The finished evaluations that the declared runs call for, and no others.

    An evaluation counts only under the key of its checkpoint and of the protocol that the sweep
    asks for now; one of another protocol or scorer is as good as missing, and a remark says so.
    Results of benchmarks that it does not declare, from `vexp import` or `vexp eval`, count beside
    them. With `costs`,
    the seconds per step as well.

    Raises:
        RunError: for results that are damaged or of a newer format.
    """
    return {
        training.identity.hash: found
        for training in declared
        if (folder := store.find(training.identity)) is not None
        and (found := _of_run(training, folder, costs)) is not None
    }


def _of_run(training: Training, folder: RunFolder, costs: bool) -> Measurements | None:
    result = folder.result()
    if result is None:
        return None
    home = str(folder.evaluations_dir)
    there = _evaluations(home)
    metrics: dict[str, Mapping[str, Score]] = {}
    benchmarks: dict[str, Score] = {}
    decoding: dict[str, str] = {}
    counted: set[str] = set()
    declared: set[str] = set()
    actual = effective(training.run, folder)
    for unit in evaluations.units(actual, result["checkpoint_hash"]):
        declared.add(getattr(unit.evaluator, "of_benchmark", ""))
        name = next((name for name in there if name.endswith(f"-{unit.key}")), None)
        if name is not None:
            counted.add(name)
            found = there[name]
            metrics[unit.label] = _scores(found)
            decoding[unit.label] = str(unit.protocol.get("decoding", ""))
            if "benchmark" in found:
                _add_benchmark(found, benchmarks, decoding, f"{home}/{name}")
    remarks: list[str] = []
    for name, found in there.items():
        if name in counted or found.get("checkpoint") != result["checkpoint_hash"]:
            continue
        if found.get("benchmark") in declared:
            remarks.append(_stale(found, folder))
        elif "benchmark" in found:
            _add_benchmark(found, benchmarks, decoding, f"{home}/{name}")
        elif found["name"] not in metrics and found["name"] in training.run.evaluator:
            remarks.append(_stale(found, folder))
    return Measurements(
        metrics,
        benchmarks,
        _costs(folder) if costs else {},
        decoding,
        tuple(remarks),
        mixed(folder.folder),
    )


def _evaluations(home: str) -> dict[str, Mapping[str, Any]]:
    """Results of a run's finished evaluations by folder name, sorted; read with few system calls.

    A table may read a hundred thousand of them.
    """
    try:
        names = sorted(name for name in os.listdir(home) if name[0] != ".")  # noqa: PTH208
    except FileNotFoundError:
        return {}
    found: dict[str, Mapping[str, Any]] = {}
    for name in names:
        try:
            content = _decoded(read_text(f"{home}/{name}/{evaluations.RESULTS}"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except ValueError:
            content = None
        whole = isinstance(content, dict) and content.keys() >= _KEYS
        if not whole or content["format"] != evaluations.FORMAT:
            content = evaluations.read_results(Path(home, name))  # says what is wrong
        found[name] = content
    return found


def _decoded(text: str) -> Any:
    """As json.loads, without its two searches for white space in front and behind."""
    content, end = _DECODER.raw_decode(text)
    if text[end:].strip():
        raise ValueError("there is more than one value")
    return content


def _scores(found: Mapping[str, Any]) -> dict[str, Score]:
    version = str(found.get("scorer", ""))
    return {
        name: Score(float(entry["value"]), entry.get("stderr"), entry.get("n"), version)
        for name, entry in found["metrics"].items()
    }


def _add_benchmark(
    found: Mapping[str, Any], scores: dict[str, Score], decoding: dict[str, str], folder: str
) -> None:
    name = str(found["benchmark"])
    if name in scores:
        raise RunError(
            f"this run has two results of the benchmark {name!r}",
            where=folder,
            accepted="one result for each run and benchmark; a table never averages two",
            remedy="delete the folder of the one that should not count",
        )
    get = found.get
    main = found["metrics"][found["main_metric"]]
    score = (float(main["value"]), main.get("stderr"), main.get("n"), str(get("version", "")))
    scores[name] = Score._make(score)
    decoding[name] = str(get("protocol", {}).get("decoding", ""))


def _stale(found: Mapping[str, Any], folder: RunFolder) -> str:
    return (
        f"not counted: evaluation {found['name']!r} of run {folder.name} has another protocol or "
        "scorer version than the sweep asks for; `vexp launch` evaluates it anew"
    )


def _costs(folder: RunFolder) -> dict[str, float]:
    """Mean seconds per step by phase, of the attempt that was published."""
    rows, _ = read_lines(attempt_folder(folder.folder, folder.published() or 0) / TIMINGS)
    phases = dict.fromkeys(key for row in rows for key in row if key.endswith("_s"))
    return {phase: _mean(row[phase] for row in rows if phase in row) for phase in phases}


def _mean(values: Iterator[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found)
