"""The chain of proposals: whoever has nothing left to do asks for one more trial.

There is no controller. A proposal is an exclusive file, so however many processes propose, and
wherever they die, there are never more trials than were asked for; and whoever comes next finishes
what a killed one began.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vexp.errors import ConfigError
from vexp.runs import evaluations
from vexp.runs.store import RunStore
from vexp.spec.run import RunSpec
from vexp.sweeps.points import Point, trainings
from vexp.sweeps.search.journal import reconciled
from vexp.sweeps.search.study import Study
from vexp.sweeps.search.trials import (
    Trial,
    TrialRun,
    create,
    is_marked,
    locked,
    mark,
    read_trials,
    restore,
)
from vexp.sweeps.state import Entry, SweepState

_PATIENCE_S = 60.0  # for another process that proposes; then it is taken for frozen


def propose(state: SweepState) -> bool:
    """Make sure that there is one more trial to work on; false if there are enough already."""
    study = Study.load(state)
    if study is None:
        return False
    with locked(study, _PATIENCE_S):
        restore(study)
        trials = read_trials(study)
        unfinished = [_finish(study, trial) for trial in trials]
        if any(unfinished):
            return True
        if len(trials) >= study.search.total:
            reconciled(study, trials, quick=True)  # so that Optuna's copy has the last ones, too
            return False
        trial = _ask(study, trials)
        if create(study, trial):
            _finish(study, trial)
        return True


def filled(state: SweepState, due: Callable[[], list[Entry]], room: int) -> list[Entry]:
    """At most `room` of the runs that are `due`; trials are proposed until there are as many."""
    found = due()
    while len(found) < room and propose(state):
        found = due()
    return found[: max(0, room)]


def take_up(study: Study) -> None:
    """What a launch does for the trials there are: restore lost records, mend the journal."""
    with locked(study, _PATIENCE_S):
        restore(study)
        trials = read_trials(study)
        for trial in trials:
            _finish(study, trial)
        if trials or study.search.storage:  # a database that cannot be reached: said now
            reconciled(study, trials)


def entries(state: SweepState, queue: Sequence[Entry]) -> list[Entry]:
    """The launched queue, less what pruned trials would still have to do, with later trials."""
    study = Study.load(state)
    if study is None:
        return list(queue)
    trials = read_trials(study)
    pruned = {run.run for trial in trials if _is_pruned(study, trial) for run in trial.runs}
    known = {entry.run for entry in queue}
    later = {
        run.run: Entry(
            run=run.run,
            label=run.label,
            shares=run.shares,
            resources=run.resources,
            trial=trial.number,
        )
        for trial in trials
        for run in trial.runs
        if run.run not in known
    }
    return [entry for entry in (*queue, *later.values()) if entry.run not in pruned]


def _is_pruned(study: Study, trial: Trial) -> bool:
    found = (study.state.status(run.run) for run in trial.runs)
    return any(status is not None and status.state == "pruned" for status in found)


def _ask(study: Study, trials: Sequence[Trial]) -> Trial:
    """The next trial, as the search proposes it from what was found so far."""
    number = len(trials)
    found = reconciled(study, trials, quick=True)
    params = dict(study.search.propose(found, number))
    frozen = found.get_trials(deepcopy=False)
    attributes = frozen[number].system_attrs if number < len(frozen) else {}
    try:
        made = runs_of(study, study.points([(number, params)]))
    except ConfigError as error:
        return Trial(number, params, problem=error.problems[0].what, attributes=_plain(attributes))
    return Trial(number, params, made, attributes=_plain(attributes))


def runs_of(study: Study, found: Sequence[Point]) -> tuple[TrialRun, ...]:
    """The runs of a trial, in the order of the seeds; seeds that change nothing share one."""
    return tuple(
        TrialRun(
            run=_folder_name(study, training.points[0]),
            label=training.label,
            seed=training.points[0].seed,
            shares=training.shares,
            scored=_scored(study, training.run),
            resources=training.points[0].resources,
        )
        for training in trainings(found)
    )


def _folder_name(study: Study, point: Point) -> str:
    known = RunStore(study.state.results_dir).find(point.identity)
    return known.name if known else point.identity.name


def _scored(study: Study, run: RunSpec) -> tuple[Mapping[str, Any], ...]:
    units = {unit.label: unit for unit in evaluations.units(run, "")}
    wanted = (units[objective.evaluator] for objective in study.search.objectives)
    return tuple(
        {"name": u.evaluator.name, "protocol": u.protocol, "version": u.evaluator.version}
        for u in wanted
    )


def _finish(study: Study, trial: Trial) -> bool:
    """Create the run folders of a trial that lack; whether any did."""
    if all(is_marked(study, trial, run) for run in trial.runs):
        return False
    from vexp.sweeps.launch import prepare

    made = trainings(study.points([(trial.number, dict(trial.params))]))
    for training in made:
        folder = prepare(training, RunStore(study.state.results_dir), study.state)
        mark(study, trial, folder.folder)
    study.state.remember({run.run: run.label for run in trial.runs})
    return all(is_marked(study, trial, run) for run in trial.runs)


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """A sampler's notes on a trial, but for CMA-ES's: those are a pickle, which is no record."""
    return {key: value for key, value in attributes.items() if not key.startswith("cma")}
