"""How a search goes on without a controller on Slurm: a job that ends sees to the next run.

It submits a job for that run. Where nodes may not submit, or `launcher.successor` is `pull`, it
takes up the run itself. A link that is killed is missing until the next launch; what it was at is
done by the others, and there are never more trials than asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from vexp.launcher.base import Worker
from vexp.runs.claim import Claim
from vexp.runs.process_id import slurm_job
from vexp.sweeps import arrays, slurm
from vexp.sweeps.arrays import Submitter
from vexp.sweeps.batch import Batch
from vexp.sweeps.circuit_breaker import held
from vexp.sweeps.search.propose import entries, filled
from vexp.sweeps.search.study import Study
from vexp.sweeps.search.trials import read_trials
from vexp.sweeps.state import Entry, SweepState


def hand_over(state: SweepState, batch: Batch, task: int) -> str | None:
    """The run that this job takes up next; None where another job does, or nothing is left."""
    study = Study.load(state)
    if study is None:
        return None
    with arrays.submitting(state) as turn:
        others = _others(state)
        if held(state, entries(state, state.queue())) is not None:
            return None
        found = filled(state, lambda: _free(state, others), 1)
        if not found:
            return None
        launcher = _launcher(study, found[0])
        if others is not None:
            if len(arrays.at_work(state, others)) >= launcher.workers:
                return None
            if launcher.successor == "submit" and _submitted(state, launcher, found, batch, turn):
                return None
        batch.move(state, task, found[0].run)
        return found[0].run


def _submitted(
    state: SweepState, launcher: Submitter, found: Sequence[Entry], batch: Batch, turn: Claim
) -> bool:
    try:
        arrays.submit(state, launcher, found, batch.code_folder(state), turn)
    except slurm.SlurmError as error:
        print(f"no job could be submitted from here: {error}", flush=True)  # noqa: T201
        return False
    return True


def _others(state: SweepState) -> list[Worker] | None:
    """The sweep's other jobs; None where Slurm cannot be asked."""
    try:
        return [worker for worker in arrays.live(state) if worker.name != slurm_job()]
    except slurm.SlurmError:
        return None


def _free(state: SweepState, others: Sequence[Worker] | None) -> list[Entry]:
    """What is due and no job is at."""
    if others is not None:
        return arrays.missing(state, others)
    from vexp.sweeps.worker import due

    taken = arrays.submitted_runs(state)
    return [
        entry
        for entry in entries(state, state.queue())
        if entry.run not in taken and due(state.status(entry.run), entry)
    ]


def _launcher(study: Study, entry: Entry) -> Submitter:
    """The launcher of the trial that a run belongs to."""
    trial = read_trials(study)[entry.trial or 0]
    return cast("Submitter", study.points([(trial.number, dict(trial.params))])[0].run.launcher)
