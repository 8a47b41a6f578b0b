"""The results that a sweep's table is made of, read from run folders; nothing is computed."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from vexp.errors import RunError
from vexp.files import read_bytes, read_lines
from vexp.forked import in_parts
from vexp.runs import evaluations
from vexp.runs.claim import attempt_folder
from vexp.runs.store import RunFolder, RunStatus
from vexp.runs.switch import effective, mixed
from vexp.runs.workspace import TIMINGS
from vexp.tables.cells import Measurements, Results, Score

if TYPE_CHECKING:
    from vexp.sweeps.plan import Planned
    from vexp.sweeps.points import Training

_KEYS = {"format", "name", "key", "metrics"}


def collect(runs: Iterable[Planned], *, costs: bool = False) -> Results:
    """The finished evaluations that the declared runs call for, and no others.

    An evaluation counts only under the key of its checkpoint and of the protocol that the sweep
    asks for now; one of another protocol or scorer is as good as missing, and a remark says so.
    Results of benchmarks that it does not declare, from `vexp import` or `vexp eval`, count beside
    them. With `costs`, the seconds per step as well.

    Raises:
        RunError: for results that are damaged or of a newer format.
    """
    finished = [
        (run.training, run.status) for run in runs if run.status and run.status.state == "done"
    ]
    of_runs = [
        found for part in in_parts(functools.partial(_of_runs, costs), finished) for found in part
    ]
    return {
        training.identity.hash: found
        for (training, _), found in zip(finished, of_runs, strict=True)
        if found is not None
    }


def _of_runs(costs: bool, runs: Iterable[tuple[Training, RunStatus]]) -> list[Measurements | None]:
    return [_of_run(training, status, costs) for training, status in runs]


def _of_run(training: Training, status: RunStatus, costs: bool) -> Measurements | None:
    folder = RunFolder(status.folder)
    result = folder.result(status.attempts)
    if result is None:
        return None
    home = str(folder.evaluations_dir)
    there = _evaluations(home)
    metrics: dict[str, Mapping[str, Score]] = {}
    benchmarks: dict[str, Score] = {}
    decoding: dict[str, str] = {}
    counted: set[str] = set()
    declared: set[str] = set()
    actual = effective(training.run, folder) if status.switched else training.run
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
        mixed(folder.folder) if status.switched else "",
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
            content = _decoded(read_bytes(f"{home}/{name}/{evaluations.RESULTS}"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except ValueError:
            content = None
        whole = isinstance(content, dict) and content.keys() >= _KEYS
        if not whole or content["format"] != evaluations.FORMAT:
            content = evaluations.read_results(Path(home, name))  # says what is wrong
        found[name] = content
    return found


def _decoded(content: bytes) -> Any:
    """As json.loads, in a third of its time."""
    try:
        return orjson.loads(content)
    except ValueError:  # NaN, which JSON does not have and Python writes; it is named later
        return json.loads(content)


def _scores(found: Mapping[str, Any]) -> dict[str, Score]:
    version = str(found.get("scorer", ""))
    scores = {
        name: Score(float(entry["value"]), entry.get("stderr"), entry.get("n"), version)
        for name, entry in found["metrics"].items()
    }
    if sampled := _sampled(found):
        main = str(found.get("main_metric") or ("score" if "score" in scores else "accuracy"))
        scores[main] = scores[main]._replace(sampled=sampled)
    return scores


def _sampled(found: Mapping[str, Any]) -> tuple[float, int] | None:
    """Spread and number of the sampled runs behind the main metric of avg@k."""
    spread = found["metrics"].get("run_std")
    return (float(spread["value"]), int(spread["n"])) if spread and spread.get("n") else None


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
    version = str(get("version", ""))
    n, sampled = main.get("n"), _sampled(found)
    scores[name] = Score(float(main["value"]), main.get("stderr"), n, version, sampled)
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
