"""Optuna's copy of a study. The run folders are the truth; this can be deleted at any time.

Whoever opens it under the study's lock gets it mended: a torn last line is cut off, what it
lacks is added from the folders, and where it contradicts them it is written anew. So a kill at any
moment, a lost file or a second writer never costs more than the time to write it again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vexp.errors import Problem, RunError, VexpError
from vexp.files import fsync_folder, storage_errors
from vexp.search.base import Pruner
from vexp.sweeps.search.outcome import TrialOutcome, outcome
from vexp.sweeps.search.study import Study
from vexp.sweeps.search.trials import Trial

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

PASSWORD = "VEXP_STORAGE_PASSWORD"  # noqa: S105  (the variable's name)
# A key of a URL whose value is a secret; `passfile` and `sslkey` are names of files.
_SECRET = re.compile(r"pass(?!file)|pwd|secret|token|api_?key|credential", re.IGNORECASE)
_GRACE_S = 5  # after which the lock of a process that was killed while appending is broken


def reconciled(study: Study, trials: Sequence[Trial], *, quick: bool = False) -> optuna.Study:
    """The study in its storage, mended to hold exactly these trials; to be called under the lock.

    With `quick`, trials that it has as complete or pruned are not looked at again.
    """
    with quiet():
        storage = _database(study.search.storage) if study.search.storage else None
        try:
            if storage is None:
                _mend(study.journal)
            found = _open(study, storage or _journal(study.journal))
            if _fill(study, found, trials, quick):
                return found
        except VexpError:
            raise
        except Exception:  # damage shows in any way, and what is damaged is written anew
            if storage is not None:
                raise
        return _rebuilt(study, trials, storage)


def in_memory(study: Study, trials: Sequence[Trial]) -> optuna.Study:
    """The same study from the folders alone, without a storage; for looking at it."""
    from optuna.storages import InMemoryStorage

    with quiet():
        found = _open(study, InMemoryStorage())
        _fill(study, found, trials, quick=False)
        return found


def pruner_of(pruner: Pruner | None, steps: int | None = None) -> optuna.pruners.BasePruner:
    """Optuna's pruner; `steps` is how long a trial runs, where that is known."""
    from optuna import pruners

    if pruner is None:
        return pruners.NopPruner()
    first = pruner.min_steps or pruner.every
    if pruner.name == "median":
        return pruners.MedianPruner(pruner.startup_trials, pruner.warmup_steps)
    if pruner.name == "successive_halving":
        return pruners.SuccessiveHalvingPruner(first, reduction_factor=pruner.reduction_factor)
    return pruners.HyperbandPruner(
        first, "auto" if steps is None else steps, reduction_factor=pruner.reduction_factor
    )


def trial_id(found: optuna.Study, number: int) -> int:
    """The id by which a process re-attaches to a trial."""
    return found.get_trials(deepcopy=False)[number]._trial_id


def _open(study: Study, storage: BaseStorage) -> optuna.Study:
    import optuna

    pruner = pruner_of(study.search.pruner, study.steps)
    try:
        found = optuna.load_study(study_name=study.name, storage=storage, pruner=pruner)
    except KeyError:
        directions = [objective.direction for objective in study.search.objectives]
        found = optuna.create_study(
            study_name=study.name, storage=storage, pruner=pruner, directions=directions
        )
    names = [f"{o.evaluator} {o.metric}" for o in study.search.objectives]
    if found.metric_names != names:
        found.set_metric_names(names)
    return found


def _fill(study: Study, found: optuna.Study, trials: Sequence[Trial], quick: bool) -> bool:
    """Add what is missing; false if it contradicts the trials and has to be written anew."""
    frozen = found.get_trials(deepcopy=False)
    if len(frozen) > len(trials):
        return False
    for trial in trials:
        known = frozen[trial.number] if trial.number < len(frozen) else None
        if known is not None and _exact(study, known.params) != _exact(study, trial.params):
            return False
        if quick and known is not None and known.state.name in ("COMPLETE", "PRUNED"):
            continue
        now = outcome(study, trial)
        if known is None:
            _add(study, found, trial)
        elif not _agree(known, now):
            return False
        if known is None or not known.state.is_finished():
            _bring_up(found, trial.number, now)
    return True


def _exact(study: Study, params: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without the noise of arithmetic, which Optuna and trials of former days have."""
    keys = study.search.distributions()
    return {key: keys[key].exact(value) if key in keys else value for key, value in params.items()}


def _agree(known: FrozenTrial, now: TrialOutcome) -> bool:
    """Whether the storage says nothing that the folders deny."""
    if not known.state.is_finished():
        return True
    names = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL", "live": ""}
    if known.state.name != names[now.state]:
        return False
    return now.values is None or list(now.values) == known.values


def _add(study: Study, found: optuna.Study, trial: Trial) -> None:
    from optuna.trial import TrialState, create_trial

    keys = study.search.distributions()
    found.add_trial(
        create_trial(
            state=TrialState.RUNNING,
            params=dict(trial.params),
            distributions={key: keys[key].optuna() for key in trial.params},
            user_attrs={"runs": [run.run for run in trial.runs]},
            system_attrs=dict(trial.attributes),
        )
    )


def _bring_up(found: optuna.Study, number: int, now: TrialOutcome) -> None:
    """Report and tell what the folders have beyond the storage."""
    import optuna
    from optuna.trial import TrialState

    if now.state == "live":
        return
    if len(found.directions) == 1:
        trial = optuna.Trial(found, trial_id(found, number))
        known = found.get_trials(deepcopy=False)[number].intermediate_values
        for step in sorted(now.curve.keys() - known.keys()):
            trial.report(now.curve[step], step)
            trial.should_prune()  # halving notes the rungs that a trial has reached
    if now.state == "complete" and now.values is not None:
        found.tell(number, list(now.values))
    else:
        found.tell(number, state=TrialState.PRUNED if now.state == "pruned" else TrialState.FAIL)


def _rebuilt(study: Study, trials: Sequence[Trial], storage: BaseStorage | None) -> optuna.Study:
    """A new study with these trials, in the place of the old one."""
    import optuna

    if storage is not None:
        with contextlib.suppress(KeyError):
            optuna.delete_study(study_name=study.name, storage=storage)
        found = _open(study, storage)
        _fill(study, found, trials, quick=False)
        return found
    aside = study.journal.with_name(f".{study.journal.name}.{os.getpid()}.tmp")
    with storage_errors(study.journal):
        aside.unlink(missing_ok=True)
        _fill(study, _open(study, _journal(aside)), trials, quick=False)
        if study.journal.is_dir():  # nothing of vexp's; status names it
            study.journal.rename(f"{study.journal}.{uuid.uuid4().hex[:8]}.aside")
        aside.rename(study.journal)
        fsync_folder(study.journal.parent)
    return _open(study, _journal(study.journal))


def _database(storage: str) -> BaseStorage:
    """The storage behind a URL; the password comes from the environment only.

    Raises:
        RunError: if it cannot be reached.
    """
    from optuna.storages import RDBStorage
    from sqlalchemy import make_url

    url = make_url(storage)
    password = os.environ.get(PASSWORD)
    given = url.set(password=password) if password else url
    try:
        return RDBStorage(given.render_as_string(hide_password=False))
    except Exception as error:
        raise RunError(
            f"the database for Optuna cannot be used: {type(error).__name__}",
            where=url.render_as_string(hide_password=True),
            remedy=f"is it running, is its driver installed, is {PASSWORD} set? "
            "Without `storage` a journal file is used",
        ) from error


def _journal(path: Path) -> BaseStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = JournalFileSymlinkLock(str(path), grace_period=_GRACE_S)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def _mend(path: Path) -> None:
    """Cut a torn last line off, before anybody appends to it."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    last = whole[whole.rfind(b"\n", 0, -1) + 1 :]
    json.loads(last or b"{}")  # a damaged whole line: the caller writes the journal anew
    if whole != content:
        with storage_errors(path), path.open("r+b") as file:
            file.truncate(len(whole))
            os.fsync(file.fileno())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Optuna tells of every trial, and warns of what is done on purpose here."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def storage_problem(storage: str) -> Problem | None:
    """What is wrong with a storage's URL, if anything is."""
    if not storage:
        return None
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(storage)
    except ArgumentError:
        return Problem(
            "this is not a database URL",
            where="search.storage",
            accepted="e.g. postgresql+psycopg://user@host/database; empty for a journal file",
        )
    if url.password or any(_SECRET.search(key) for key in url.query):
        return Problem(
            "the URL holds a password, and files of a sweep are read by many",
            where="search.storage",
            remedy=f"take it out and set the environment variable {PASSWORD}",
        )
    return None
