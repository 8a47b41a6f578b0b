"""The results that a sweep's table is made of, read from run folders; nothing is computed."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from vexp import records
from vexp.errors import Damaged, Problem
from vexp.files import names_in, read_lines
from vexp.forked import in_parts
from vexp.runs import evaluations
from vexp.runs.claim import attempt_folder
from vexp.runs.engine_switch import effective, mixed
from vexp.runs.status import RunStatus
from vexp.runs.store import RunFolder
from vexp.runs.workspace import TIMINGS
from vexp.tables.cells import Measurements, Results, Score

if TYPE_CHECKING:
    from vexp.sweeps.plan import Planned
    from vexp.sweeps.points import Training


def collect(runs: Iterable[Planned], *, costs: bool = False) -> Results:
    """The finished evaluations that the declared runs call for, and no others.

    An evaluation counts only under the key of its checkpoint and of the protocol that the sweep
    asks for now; one of another protocol or scorer is as good as missing, and a remark says so.
    Results of benchmarks that it does not declare, from `vexp import` or `vexp eval`, count beside
    them. What is damaged does not count and is named in `Measurements.damage`. With `costs`, the
    seconds per step as well.
    """
    there = [
        (run.training, run.status)
        for run in runs
        if run.status is not None and run.status.state in ("done", "damaged")
    ]
    of_runs = [
        found for part in in_parts(functools.partial(_of_runs, costs), there) for found in part
    ]
    return {
        training.identity.hash: found
        for (training, _), found in zip(there, of_runs, strict=True)
        if found is not None
    }


def _of_runs(costs: bool, runs: Iterable[tuple[Training, RunStatus]]) -> list[Measurements | None]:
    return [_of_run(training, status, costs) for training, status in runs]


def _of_run(training: Training, status: RunStatus, costs: bool) -> Measurements | None:
    run = f"run {status.name}"
    if status.problem is not None:
        return Measurements({}, damage={run: status.problem})
    if status.result is None:
        return None
    try:
        return _Collected(training, RunFolder(status.folder), status).measurements(costs)
    except Damaged as error:
        return Measurements({}, damage={run: error.problem})


class _Collected:
    """What counts of one finished run."""

    def __init__(self, training: Training, folder: RunFolder, status: RunStatus) -> None:
        assert status.result is not None
        self.training, self.folder, self.switched = training, folder, status.switched
        self.checkpoint = status.result.checkpoint_hash
        self.home = str(folder.evaluations_dir)
        self.metrics: dict[str, Mapping[str, Score]] = {}
        self.benchmarks: dict[str, Score] = {}
        self.decoding: dict[str, str] = {}
        self.remarks: list[str] = []
        self.damage: dict[str, Problem] = {}

    def measurements(self, costs: bool) -> Measurements:
        """All of it.

        Raises:
            Damaged: if the run's evaluations cannot be listed, or its switches not be read.
        """
        there = self._evaluations()
        counted, benchmarks = self._declared(there)
        for name, found in there.items():
            if name not in counted and found.checkpoint == self.checkpoint:
                self._beside(found, name, benchmarks)
        return Measurements(
            self.metrics,
            self.benchmarks,
            self._costs() if costs else {},
            self.decoding,
            tuple(self.remarks),
            mixed(self.folder.folder) if self.switched else "",
            self.damage,
        )

    def _declared(self, there: Mapping[str, records.Results]) -> tuple[set[str], set[str]]:
        """Take what the sweep declares; the folders that were taken, and its benchmarks."""
        run = self.training.run
        actual = effective(run, self.folder) if self.switched else run
        counted: set[str] = set()
        benchmarks: set[str] = set()
        for unit in evaluations.units(actual, self.checkpoint):
            benchmarks.add(getattr(unit.evaluator, "of_benchmark", ""))
            name = next((name for name in there if name.endswith(f"-{unit.key}")), None)
            if name is not None:
                counted.add(name)
                found = there[name]
                self.metrics[unit.label] = _scores(found)
                self.decoding[unit.label] = str(unit.protocol.get("decoding", ""))
                if found.benchmark is not None:
                    self._add_benchmark(found, found.benchmark, name)
        return counted, benchmarks

    def _beside(self, found: records.Results, name: str, benchmarks: Collection[str]) -> None:
        """Take one that the sweep does not declare, if it is of another benchmark than those."""
        stale = found.name not in self.metrics and found.name in self.training.run.evaluator
        if found.benchmark is not None and found.benchmark not in benchmarks:
            self._add_benchmark(found, found.benchmark, name)
        elif found.benchmark in benchmarks or stale:
            self.remarks.append(
                f"not counted: evaluation {found.name!r} of run {self.folder.name} has another "
                "protocol or scorer version than the sweep asks for; `vexp launch` evaluates it "
                "anew"
            )

    def _evaluations(self) -> dict[str, records.Results]:
        """Results of the finished evaluations by folder name, sorted; read with few system calls.

        A table may read a hundred thousand of them.
        """
        found: dict[str, records.Results] = {}
        for name in sorted(names_in(self.home)):
            if name[0] != "." and "-" in name:
                try:
                    found[name] = evaluations.read_results(f"{self.home}/{name}")
                except Damaged as error:
                    self.damage[f"evaluation {name} of run {self.folder.name}"] = error.problem
        return found

    def _add_benchmark(self, found: records.Results, name: str, folder: str) -> None:
        twice = f"benchmark {name} of run {self.folder.name}"
        if self.benchmarks.pop(name, None) is not None or twice in self.damage:
            self.damage[twice] = Problem(
                f"this run has two results of the benchmark {name!r}: none is shown",
                where=f"{self.home}/{folder}",
                accepted="one result for each run and benchmark; a table never averages two",
                remedy="delete the folder of the one that should not count",
            )
            return
        main = found.metrics[str(found.main_metric)]
        version = "" if found.version is None else str(found.version)
        score = Score(main.value, main.stderr, main.n, version, _sampled(found))
        self.benchmarks[name] = score
        self.decoding[name] = found.decoding

    def _costs(self) -> dict[str, float]:
        """Mean seconds per step by phase, of the attempt that was published."""
        attempt = attempt_folder(self.folder.folder, self.folder.published() or 0)
        try:
            rows, _ = read_lines(attempt / TIMINGS)
        except Damaged as error:
            self.damage[f"{TIMINGS} of run {self.folder.name}"] = error.problem
            return {}
        found: dict[str, list[float]] = {}
        for row in rows:
            for key, value in row.items():
                if key.endswith("_s") and type(value) in (int, float):
                    found.setdefault(key, []).append(value)
        return {phase: math.fsum(each) / len(each) for phase, each in found.items()}


def _scores(found: records.Results) -> dict[str, Score]:
    version = str(found.scorer)
    scores = {
        name: Score(entry.value, entry.stderr, entry.n, version)
        for name, entry in found.metrics.items()
    }
    if sampled := _sampled(found):
        main = found.main_metric or ("score" if "score" in scores else "accuracy")
        if main in scores:
            scores[main] = scores[main]._replace(sampled=sampled)
    return scores


def _sampled(found: records.Results) -> tuple[float, int] | None:
    """Spread and number of the sampled runs behind the main metric of avg@k."""
    spread = found.metrics.get("run_std")
    return (spread.value, spread.n) if spread is not None and spread.n else None
