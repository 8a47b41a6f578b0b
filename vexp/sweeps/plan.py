"""What a sweep declares against what exists: the difference is what a launch would start."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vexp.errors import ConfigError, Problem
from vexp.files import check_folder
from vexp.runs.status import RunStatus, State
from vexp.runs.store import RunStore
from vexp.sweeps.checks import check
from vexp.sweeps.circuit_breaker import CircuitBreaker
from vexp.sweeps.evaluation_status import Units, finished_of, look, look_at
from vexp.sweeps.points import Point, Training, collapsed, points, trainings
from vexp.sweeps.schema import Sweep, shown_path
from vexp.sweeps.state import SweepState

if TYPE_CHECKING:
    from vexp.launcher.base import Launcher
    from vexp.spec.run import RunSpec
    from vexp.sweeps.search.plan import Searching

STATES: tuple[State, ...] = (
    "done", "pruned", "running", "failed", "damaged", "stopped", "new"
)  # fmt: skip


@dataclass(frozen=True)
class Planned:
    """One declared run and where it stands; `status` is None while it has no folder."""

    training: Training
    status: RunStatus | None
    trial: int | None = None  # of the sweep's search
    pruned: bool = False  # its trial was stopped for good

    @functools.cached_property
    def units(self) -> Units:
        """Its evaluations, looked up when somebody asks; of many runs see `look_up_evaluations`."""
        return look(self.training, self.status)

    @property
    def state(self) -> State:
        found = self.status.state if self.status else "new"
        if self.pruned and found not in ("done", "running", "damaged"):
            return "pruned"
        # Pruned by another sweep's search: for this sweep it goes on from its checkpoint.
        return "stopped" if found == "pruned" else found

    @property
    def complete(self) -> bool:
        """Nothing is left to do for it: done with all its evaluations, or pruned."""
        return self.state == "pruned" or (self.state == "done" and all(self.evaluations.values()))

    @property
    def evaluations(self) -> dict[str, bool]:
        """Evaluator -> whether its results exist."""
        return {name: unit.state == "done" for name, unit in self.units.declared.items()}

    @property
    def name(self) -> str:
        """The run folder's name."""
        return self.status.name if self.status else self.training.identity.name


@dataclass(frozen=True)
class Plan:
    """A sweep's declared runs, and the orphans that it no longer declares."""

    sweep: Sweep
    state: SweepState
    points: tuple[Point, ...]
    runs: tuple[Planned, ...]
    orphans: tuple[tuple[str, State], ...]  # run folders launched before: kept, never deleted
    collapsed: tuple[str, ...]
    search: Searching | None = None

    @property
    def launcher(self) -> Launcher:
        """The same for all runs of the sweep."""
        return self.specs()[0].launcher

    def specs(self) -> list[RunSpec]:
        """The declared runs; of a search one that stands for all."""
        return [self.search.corner] if self.search else [point.run for point in self.points]

    def unknown(self) -> tuple[Problem, ...]:
        """What this machine cannot tell of the runs' inputs; their ids are provisional."""
        return tuple(dict.fromkeys(p for run in self.runs for p in run.training.run.unknown()))

    def notes(self) -> tuple[str, ...]:
        """What is not as it looks, and no mistake."""
        search = self.sweep.search
        return (*(search.notes() if search else ()), *_namesake(self.sweep, self.state))

    def counts(self) -> dict[str, int]:
        """How many runs are in each state; pruned and damaged ones only where there may be any."""
        found = Counter(run.state for run in self.runs)
        never = {"pruned"} if self.search is None else set()
        never |= set() if found["damaged"] else {"damaged"}
        return {state: found[state] for state in STATES if state not in never}

    def evaluation_counts(self) -> dict[str, int]:
        """How many evaluation units are in each state."""
        found = Counter(unit.state for run in self.runs for unit in run.units.declared.values())
        return {state: found[state] for state in STATES if state != "damaged" or found[state]}

    def shared_with(self) -> dict[str, int]:
        """Other sweeps, and how many of this one's runs they have started and it has not."""
        own = self.state.submitted().keys()
        theirs = {run.name for run in self.runs if run.status is not None} - own
        found: dict[str, int] = {}
        for other in self.state.others() if theirs else ():
            count = len(theirs & other.submitted().keys())
            if count:
                found[other.name] = count
        return found

    def damage(self) -> dict[str, Problem]:
        """What cannot be read of its runs and their evaluations, by what it is of."""
        found: dict[str, Problem] = {}
        for run in self.runs:
            if run.status is not None and run.status.problem is not None:
                found[f"run {run.name}"] = run.status.problem
            for name, unit in run.units.declared.items():
                if unit.problem is not None:
                    found[f"evaluation {name} of run {run.name}"] = unit.problem
        return found

    @functools.cached_property
    def held(self) -> str | None:
        """What its first runs all failed with, if that holds the rest."""
        record = self.state.record()
        retries = self.state.retries()
        hold = CircuitBreaker(self.sweep.hold_after, bool(record and record.released))
        return hold.signature((run.status, retries.get(run.name, 0)) for run in self.runs)

    @property
    def orphaned_evaluations(self) -> int:
        """Finished evaluations of this sweep's runs that it does not declare; never deleted."""
        orphans = (self.state.results_dir / "runs" / name for name, _ in self.orphans)
        return sum(run.units.others for run in self.runs) + finished_of(orphans)

    @property
    def complete(self) -> bool:
        """Whether every run is done with all its evaluations, and every trial proposed."""
        return all(run.complete for run in self.runs) and not (self.search and self.search.open)


def make_plan(sweep: Sweep, *, config_dirs: Iterable[Path] = ()) -> Plan:
    """Resolve the sweep's points and look at their run folders.

    Raises:
        ConfigError: with all problems of all points.
        StorageError: if a file stands where a folder has to be.
    """
    dirs = tuple(config_dirs)
    if sweep.search is not None:
        from vexp.sweeps.search.plan import look_up

        search = look_up(sweep, dirs)
        _check_proposes(search.corner.launcher, sweep)
        _check_folders(search.study.state)
        return _searching(sweep, search)
    found = points(sweep, config_dirs=dirs)
    check(sweep, found)
    declared = trainings(found)
    results_dir = found[0].run.results_dir if found else _results_dir(sweep, dirs)
    state = SweepState.of(results_dir, sweep.name)
    _check_folders(state)
    return reconcile(sweep, found, declared, state, RunStore(results_dir))


def _searching(sweep: Sweep, search: Searching) -> Plan:
    """The plan of the trials that a search has proposed so far."""
    found, state = search.points, search.study.state
    plan = reconcile(sweep, found, trainings(found), state, RunStore(state.results_dir))
    numbers, pruned = search.numbers(), search.pruned()
    runs = tuple(
        replace(
            run,
            trial=numbers.get(run.training.identity.hash),
            pruned=run.training.identity.hash in pruned,
        )
        for run in plan.runs
    )
    return replace(plan, sweep=replace(sweep, rows=search.rows), runs=runs, search=search)


def reconcile(
    sweep: Sweep,
    found: Sequence[Point],
    declared: Sequence[Training],
    state: SweepState,
    store: RunStore,
) -> Plan:
    """The plan of resolved points, from the files as they are now; cheap enough to repeat."""
    hashes, submitted = {training.identity.hash for training in declared}, state.submitted()
    wanted = hashes | {name.rpartition("-")[2] for name in submitted}
    by_hash: dict[str, RunStatus] = {}
    for found_status in store.statuses(wanted):
        if found_status.state != "damaged" or found_status.hash not in by_hash:  # a copy beside it
            by_hash[found_status.hash] = found_status
    runs = [Planned(training, by_hash.get(training.identity.hash)) for training in declared]
    orphans = [
        (name, status.state)
        for name in submitted
        if (status := by_hash.get(name.rpartition("-")[2])) and status.hash not in hashes
    ]
    return Plan(
        sweep=sweep,
        state=state,
        points=tuple(found),
        runs=tuple(runs),
        orphans=tuple(orphans),
        collapsed=tuple(collapsed(declared)),
    )


def look_up_evaluations(plan: Plan) -> Plan:
    """The same plan with the evaluations of all its runs looked up at once, which is faster."""
    pairs = [(run.training, run.status) for run in plan.runs]
    for run, units in zip(plan.runs, look_at(pairs), strict=True):
        vars(run)["units"] = units
    return plan


def refreshed(plan: Plan) -> Plan:
    """The same plan with the states as they are now; nothing is composed again."""
    if plan.search is not None:
        return _searching(plan.sweep, plan.search.refreshed())
    declared = [run.training for run in plan.runs]
    store = RunStore(plan.state.results_dir)
    return reconcile(plan.sweep, plan.points, declared, plan.state, store)


def _results_dir(sweep: Sweep, config_dirs: Iterable[Path]) -> str:
    """Where results are kept, for a sweep of constants only."""
    from vexp.spec.resolve import resolve

    texts = [override.text for override in (*sweep.base, *sweep.extra)]
    return resolve(texts, config_dirs=config_dirs).results_dir


def _check_proposes(launcher: Launcher, sweep: Sweep) -> None:
    if not launcher.searches:
        raise ConfigError(
            Problem(
                f"launcher {launcher.name!r} cannot run a search: its jobs propose no trials",
                where=f"{shown_path(sweep.path)}: search and launcher",
                remedy="run it with launcher=local, for example within one long job of the cluster",
            )
        )


def _namesake(sweep: Sweep, state: SweepState) -> Iterator[str]:
    """Another file of this sweep's name that was launched into the same folder."""
    record = state.record()
    if record is None or not record.file or not sweep.path.is_file():
        return
    other = Path(record.file)
    if other.is_file() and not other.samefile(sweep.path):
        yield (
            f"{shown_path(other)} was launched under the name {sweep.name}, too: both write one "
            "table and one queue; give one of them another `name:`"
        )


def _check_folders(state: SweepState) -> None:
    """Raises:
    StorageError: if a file stands where one of the folders has to be.
    """
    root = state.results_dir
    own = (state.folder / name for name in ("configs", "jobs", "search", "workers"))
    for folder in (root / "runs", state.folder, *own):
        check_folder(folder)
