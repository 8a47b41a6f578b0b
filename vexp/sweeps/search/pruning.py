"""Pruning from within a run: its metrics are reported, and it hears whether to go on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vexp.errors import ConfigError, Problem, RunError, suggest
from vexp.files import read_json
from vexp.runs.store import RunFolder
from vexp.search.base import Pruner
from vexp.sweeps.search.journal import reconciled, trial_id
from vexp.sweeps.search.study import Study
from vexp.sweeps.search.trials import Trial, locked, read_trials
from vexp.sweeps.state import SweepState

_PATIENCE_S = 20.0  # training waits for no frozen process: it goes on without a verdict


class Judge:
    """Asked after every step of a run whether its trial is pruned."""

    def __init__(self, study: Study, pruner: Pruner, trial: Trial, run: str) -> None:
        self._study = study
        self._pruner = pruner
        self._trial = trial
        self._first = trial.runs[0].run == run

    @classmethod
    def of(cls, record: Path, run: RunFolder) -> Judge | None:
        """For a run of the trial in this file; None where nothing is pruned.

        Raises:
            RunError: if the file is damaged.
        """
        trial = Trial.read(read_json(record), int(record.stem))
        study = Study.load(SweepState(record.parents[3]))
        if trial is None or study is None:
            raise RunError(
                "the record of this run's trial is damaged",
                where=str(record),
                remedy="launch the sweep again",
            )
        pruner = study.search.pruner
        return cls(study, pruner, trial, run.name) if pruner else None

    def __call__(self, step: int, row: Mapping[str, float]) -> bool:
        """Whether to stop after this step.

        Raises:
            ConfigError: if the run has no metric of the pruner's name.
        """
        if step % self._pruner.every:
            return False
        if not self._first:
            return self._first_is_pruned()
        if self._pruner.metric not in row:
            raise ConfigError(
                Problem(
                    f"the pruner reads a metric {self._pruner.metric!r} that the run does not have",
                    where="search.pruner.metric",
                    accepted=suggest(self._pruner.metric, row, noun="metrics"),
                )
            )
        with locked(self._study, _PATIENCE_S) as held:
            return held and self._report(step, float(row[self._pruner.metric]))

    def _report(self, step: int, value: float) -> bool:
        """Re-attach to the trial, tell and ask."""
        import optuna

        found = reconciled(self._study, read_trials(self._study), quick=True)
        here = optuna.Trial(found, trial_id(found, self._trial.number))
        if found.get_trials(deepcopy=False)[self._trial.number].state.is_finished():
            return False
        if step not in here.storage.get_trial(here._trial_id).intermediate_values:
            here.report(value, step)
        return bool(here.should_prune())

    def _first_is_pruned(self) -> bool:
        status = self._study.state.status(self._trial.runs[0].run)
        return status is not None and status.state == "pruned"
