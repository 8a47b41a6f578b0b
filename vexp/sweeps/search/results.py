"""What a search found: the best trials, the Pareto front, and which keys mattered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vexp.errors import RunError
from vexp.sweeps.points import Point
from vexp.sweeps.search.journal import in_memory, quiet
from vexp.sweeps.search.outcome import TrialOutcome
from vexp.sweeps.search.plan import Searching
from vexp.sweeps.search.trials import Trial


@dataclass(frozen=True)
class Found:
    """A complete trial with its value for each objective."""

    trial: Trial
    values: tuple[float, ...]

    def data(self, search: Searching) -> dict[str, Any]:
        names = objective_names(search)
        return {
            "trial": self.trial.number,
            "values": dict(zip(names, self.values, strict=True)),
            "seeds": len(self.trial.runs),
            "params": dict(self.trial.params),
            "runs": [run.run for run in self.trial.runs],
        }


def objective_names(search: Searching) -> list[str]:
    """`dev accuracy`: the evaluator and its metric."""
    return [f"{o.evaluator} {o.metric}" for o in search.study.search.objectives]


def complete(search: Searching) -> list[Found]:
    """All complete trials, in their order.

    Raises:
        RunError: if there is none yet.
    """
    found = [Found(trial, now.values) for trial, now in _pairs(search) if now.values is not None]
    if not found:
        reasons = [f"trial {number}: {why}" for number, why in search.reasons().items()]
        raise RunError(
            "no trial of this search is complete yet",
            where=str(search.study.folder),
            accepted="; ".join(reasons[:3]),
            remedy=f"see how far it is: vexp status {search.study.sweep.name}",
        )
    return found


def ranked(search: Searching) -> list[Found]:
    """Complete trials, the best first; of equal ones the earlier.

    Raises:
        RunError: if none is complete, or there are several objectives.
    """
    objectives = search.study.search.objectives
    if len(objectives) > 1:
        raise RunError(
            f"a search with {len(objectives)} objectives has no best trial",
            remedy=f"see its front: vexp search pareto {search.study.sweep.name}",
        )
    sign = -1 if objectives[0].direction == "maximize" else 1
    return sorted(complete(search), key=lambda found: sign * found.values[0])


def front(search: Searching) -> list[Found]:
    """The complete trials that no other one beats in everything, ordered by the first objective.

    Raises:
        RunError: if no trial is complete.
    """
    found = {each.trial.number: each for each in complete(search)}
    study = in_memory(search.study, search.trials)
    best = [found[trial.number] for trial in study.best_trials]
    return sorted(best, key=lambda each: each.values)


def importances(search: Searching) -> dict[str, dict[str, float]]:
    """For each objective, the share of its variance that each key accounts for (fANOVA).

    Source: Hutter, Hoos and Leyton-Brown, 2014, by Optuna. Few trials give rough numbers.

    Raises:
        RunError: if fewer than two complete trials differ in their values.
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    found = complete(search)
    study = in_memory(search.study, search.trials)
    shares = {}
    for index, name in enumerate(objective_names(search)):
        if len({each.values[index] for each in found}) < 2:
            raise RunError(
                f"importances need complete trials that differ in {name!r}; "
                f"there are {len(found)}, all alike",
                where=str(search.study.folder),
            )
        with quiet():
            shares[name] = get_param_importances(
                study,
                evaluator=FanovaImportanceEvaluator(seed=search.study.search.seed),
                target=lambda trial, index=index: trial.values[index],  # type: ignore[misc]
            )
    return shares


def points_of(search: Searching, trial: Trial) -> Sequence[Point]:
    """The trial's points, one for each seed."""
    return search.by_trial.get(trial.number, [])


def counts_text(counts: Mapping[str, int]) -> str:
    """`12 complete, 3 pruned`."""
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _pairs(search: Searching) -> list[tuple[Trial, TrialOutcome]]:
    return list(zip(search.trials, search.outcomes, strict=True))
