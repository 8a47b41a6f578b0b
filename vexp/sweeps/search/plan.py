"""A sweep with a search, looked up: its trials so far, and how many are still to be proposed."""

from __future__ import annotations

import contextlib
import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from vexp.errors import ConfigError, Problem, suggest
from vexp.spec.identity import training_id
from vexp.spec.resolve import resolve
from vexp.spec.run import RunSpec
from vexp.sweeps.overrides import Override
from vexp.sweeps.points import Point
from vexp.sweeps.schema import Row, Sweep, shown_path
from vexp.sweeps.search.journal import storage_problem
from vexp.sweeps.search.outcome import TrialOutcome, outcome
from vexp.sweeps.search.study import Study, settings_of, study_key, trial_number
from vexp.sweeps.search.trials import Trial, read_trials
from vexp.sweeps.state import SweepState

OUTCOMES = ("complete", "pruned", "failed", "live")
_OWN = ("seed", "results_dir", "launcher", "plugins")  # keys that no trial may set


@dataclass(frozen=True)
class Searching:
    """A search as its files tell."""

    study: Study
    corner: RunSpec  # one run of the space, for what all of them have in common
    trials: tuple[Trial, ...]
    composed: Mapping[int, list[Point]] = field(default_factory=dict)  # of these, by trial

    @functools.cached_property
    def outcomes(self) -> tuple[TrialOutcome, ...]:
        return tuple(outcome(self.study, trial) for trial in self.trials)

    @functools.cached_property
    def points(self) -> list[Point]:
        """The points of all trials that the config takes."""
        return [point for trial in self.by_trial.values() for point in trial]

    @functools.cached_property
    def by_trial(self) -> dict[int, list[Point]]:
        """The points of each trial; those that were composed before are not composed again."""
        found: dict[int, list[Point]] = {
            trial.number: list(self.composed.get(trial.number, ()))
            for trial in self.trials
            if not trial.problem
        }
        new = [(t.number, dict(t.params)) for t in self.trials if found.get(t.number) == []]
        for point in self.study.points(new):
            found[trial_number(point.row)].append(point)
        return found

    @property
    def rows(self) -> tuple[Row, ...]:
        """A row of the table for each trial; those that were pruned have no place in it."""
        pairs = zip(self.trials, self.outcomes, strict=True)
        return tuple(
            self.study.row(trial.number, dict(trial.params))
            for trial, now in pairs
            if not trial.problem and now.state != "pruned"
        )

    @property
    def open(self) -> int:
        """Trials that are still to be proposed."""
        return max(0, self.study.search.total - len(self.trials))

    def pruned(self) -> set[str]:
        """Hashes of the runs of pruned trials."""
        return self._runs("pruned")

    def numbers(self) -> dict[str, int]:
        """The first trial of each run, by the run's hash."""
        found: dict[str, int] = {}
        for trial in self.trials:
            for run in trial.runs:
                found.setdefault(run.run.rpartition("-")[2], trial.number)
        return found

    def counts(self) -> dict[str, int]:
        """How many trials stand how, and how many are still to be proposed."""
        found = Counter[str](each.state for each in self.outcomes)
        return {state: found[state] for state in OUTCOMES} | {"open": self.open}

    def reasons(self) -> dict[int, str]:
        """Why trials failed whose runs did not, by number; a failed run has a log of its own."""
        return {
            trial.number: now.reason
            for trial, now in zip(self.trials, self.outcomes, strict=True)
            if now.state == "failed" and now.reason
        }

    def refreshed(self) -> Searching:
        """The same search as its files are now."""
        return Searching(self.study, self.corner, tuple(read_trials(self.study)), self.by_trial)

    def _runs(self, state: str) -> set[str]:
        pairs = zip(self.trials, self.outcomes, strict=True)
        return {
            run.run.rpartition("-")[2]
            for trial, now in pairs
            if now.state == state
            for run in trial.runs
        }


def look_up(sweep: Sweep, config_dirs: Iterable[Path] = ()) -> Searching:
    """Check a sweep's search against the config, and find its trials.

    Raises:
        ConfigError: with everything that is wrong, before anything is started.
    """
    dirs = tuple(config_dirs)
    wrong = list(_own_keys(sweep))
    corners = _corners(sweep, dirs, wrong)
    if wrong:  # what the objectives lack can be said all the same
        with contextlib.suppress(ConfigError):
            corners = corners or [_resolved(sweep, {}, dirs)]
    if corners:
        wrong += _unproducible(sweep, corners[0])
        wrong += _unprunable(sweep, corners[0])
    assert sweep.search is not None
    problem = storage_problem(sweep.search.storage)
    wrong += [problem] if problem else []
    if wrong or not corners:
        raise ConfigError(wrong)
    corner = corners[0]
    key = study_key(sweep, corner, training_id(corner).hash)
    state = SweepState.of(corner.results_dir, sweep.name)
    study = Study(sweep, state, key, corner.rl.steps, dirs)
    return Searching(study, corner, tuple(read_trials(study)))


def _corners(sweep: Sweep, dirs: tuple[Path, ...], wrong: list[Problem]) -> list[RunSpec]:
    """Runs at the ends of the space, one key at a time; what the config does not take is noted."""
    assert sweep.search is not None
    ends = {key: distribution.ends for key, distribution in sweep.search.distributions().items()}
    first = {key: values[0] for key, values in ends.items()}
    settings = [first]
    settings += [{**first, key: value} for key, values in ends.items() for value in values[1:]]
    found = []
    for params in settings:
        try:
            found.append(_resolved(sweep, params, dirs))
        except ConfigError as error:
            said = {_gist(problem) for problem in wrong}
            wrong += [problem for problem in error.problems if _gist(problem) not in said]
    return found


def _gist(problem: Problem) -> str:
    """A problem without the numbers in it: both ends of a range have the same one."""
    return re.sub(r"[0-9][0-9.e+-]*", "#", f"{problem.what} {problem.where}")


def _resolved(sweep: Sweep, params: dict[str, Any], dirs: tuple[Path, ...]) -> RunSpec:
    seed = (Override(f"seed={sweep.seeds[0]}", "seeds"),) if sweep.seeds else ()
    chosen = (*sweep.base, *settings_of(sweep, params), *seed, *sweep.extra)
    texts, sources = [o.text for o in chosen], [o.source for o in chosen]
    return resolve(texts, config_dirs=dirs, source=sources)


def _own_keys(sweep: Sweep) -> Iterator[Problem]:
    assert sweep.search is not None
    for key in sweep.search.distributions():
        if key.partition(".")[0].lstrip("+") in _OWN:
            remedy = "use `seeds: [1, 2]`: a trial is run with each" if key == "seed" else ""
            yield Problem(f"a search cannot set {key!r}", where=_where(sweep), remedy=remedy)


def _unproducible(sweep: Sweep, run: RunSpec) -> Iterator[Problem]:
    """Objectives that no evaluation gives a value."""
    assert sweep.search is not None
    for objective in sweep.search.objectives:
        evaluator = run.evaluator.get(objective.evaluator)
        if evaluator is None:
            yield Problem(
                f"the runs of this search have no evaluator {objective.evaluator!r}",
                where=_where(sweep, "objectives"),
                accepted=suggest(objective.evaluator, run.evaluator, noun="evaluators"),
                remedy=f"add [evaluator.{objective.evaluator}=heldout, "
                f"evaluator.{objective.evaluator}.split=dev] to `base`",
            )
            continue
        produced = evaluator.produces
        if produced and not any(fnmatchcase(objective.metric, pattern) for pattern in produced):
            yield Problem(
                f"evaluator {objective.evaluator!r} produces no metric {objective.metric!r}",
                where=_where(sweep, "objectives"),
                accepted=suggest(objective.metric, produced, noun="metrics"),
            )


def _unprunable(sweep: Sweep, run: RunSpec) -> Iterator[Problem]:
    """A pruner that would never see a value."""
    assert sweep.search is not None
    pruner = sweep.search.pruner
    if pruner is None:
        return
    if "rl" not in run.stages:
        yield Problem(
            "a pruner looks at reinforcement learning, and these runs have none",
            where=_where(sweep, "pruner"),
            remedy="take the pruner out, or add `rl` to the stages",
        )
    elif pruner.every >= run.rl.steps:
        yield Problem(
            f"the pruner looks every {pruner.every} steps, and a run has only {run.rl.steps}",
            where=_where(sweep, "pruner"),
            accepted=f"every: 1 to {run.rl.steps - 1}",
        )


def _where(sweep: Sweep, key: str = "space") -> str:
    origin = sweep.table_origins.get(("search", key))
    return f"search.{key}, set by {origin}" if origin else shown_path(sweep.path)
