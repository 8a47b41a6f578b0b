"""One run from start to end: claim, resume, train, evaluate, publish. The same call resumes it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vexp import masking, records
from vexp.config.schema import to_dict
from vexp.errors import ClaimLost, Interrupted, Pruned, RunError, StorageError
from vexp.files import new_folder, write_json
from vexp.runs import engine_switch, failure, provenance
from vexp.runs.claim import acquire
from vexp.runs.evaluations import Evaluation, checkpoint_hash, find, model_folder, units
from vexp.runs.heartbeat import DEFAULT, Timing
from vexp.runs.mend import mend
from vexp.runs.process_id import Owner
from vexp.runs.processes import Topology, span_of, together
from vexp.runs.record import check_same_science
from vexp.runs.status import RESULT
from vexp.runs.stop import StopRequest
from vexp.runs.store import RunFolder, RunStore
from vexp.runs.workspace import CONFIG, LOG, Judge, Reporter, RunWorkspace, now
from vexp.spec.identity import training_id
from vexp.train import checkpoint, manifest
from vexp.train.checkpoint import drop_optimizer
from vexp.train.manifest import MODEL

if TYPE_CHECKING:
    from vexp.engine.base import Engine
    from vexp.spec.run import RunSpec

Results = dict[str, Mapping[str, Any]]  # content of results.json by label


@dataclass(frozen=True)
class RunOutcome:
    """How a call of `execute` ended, when it did not end by an error."""

    run: RunFolder
    state: Literal["finished", "pruned", "already done"]  # by this call, or before it
    evaluations: Results


def execute(
    run: RunSpec,
    *,
    reporter: Reporter,
    store: RunStore | None = None,
    folder: RunFolder | None = None,
    evaluate: bool = True,
    wait: bool = False,
    timing: Timing = DEFAULT,
    judge: Judge | None = None,
    span: Topology | None = None,
    engine: Engine | None = None,
) -> RunOutcome:
    """Train and evaluate a run, going on from whatever exists of it.

    `span` says on how many processes, where a launcher has decided that; otherwise the run does.
    `folder` is given by whoever means an existing one. With `wait`, another process that works on
    the run is waited for. `judge` may have it stop for good, after saving and without evaluations.
    `engine` is another one than the run's, with which it is to go on; that is recorded, and so the
    next call goes on with it as well.

    Raises:
        ConfigError: this machine has fewer GPUs than the run is to have processes.
        RunError: `folder` was written by another config, or there is nothing to go on with.
        Busy: another living process works on it.
        Interrupted: stopped on request after saving; its exit code is the signal's.
        VexpError: whatever else ended the run, as a message; failure.json has its kind.
    """
    store = store or RunStore(run.results_dir)
    span = span_of(run, span)
    if engine is not None:
        folder = folder or store.find(training_id(run))
        engine_switch.check(run, folder, engine)
    if folder is None:
        folder = store.open(run, training_id(run))
    check_same_science(folder.folder, training_id(run))
    run = engine_switch.effective(run, folder)
    return _execute(run, folder, reporter, store, evaluate, wait, timing, judge, span, engine)


def _execute(
    run: RunSpec,
    folder: RunFolder,
    reporter: Reporter,
    store: RunStore,
    evaluate: bool,
    wait: bool,
    timing: Timing,
    judge: Judge | None,
    span: Topology,
    engine: Engine | None,
) -> RunOutcome:
    def told(owner: Owner) -> None:
        reporter.note(f"{folder.name} is claimed by {owner}; watching whether it is alive")

    with StopRequest() as stop:
        mend(folder, reporter.note)
        claim = acquire(
            folder.folder, timing=timing, wait=wait, told=told, stopping=lambda: bool(stop)
        )
        if claim is not None:
            workspace = RunWorkspace(
                folder, claim, store.stages_dir, reporter, stop, timing, judge=judge
            )
            try:
                found = _attempt(run, workspace, evaluate, span, engine)
                return RunOutcome(folder, "finished", found)
            except Pruned:
                return RunOutcome(folder, "pruned", Results())
            finally:
                (engine or run.engine).close()
        reporter.note(f"{folder.name} is done already")
        found = _evaluate(run, folder, reporter, stop, timing) if evaluate else {}
        return RunOutcome(folder, "already done", found)


def evaluate_run(
    run: RunSpec,
    folder: RunFolder,
    *,
    reporter: Reporter,
    timing: Timing = DEFAULT,
) -> Results:
    """Results of every evaluation `run` declares, for the checkpoint that `folder` published.

    Raises:
        RunError: the run is not finished, or something is to be scored whose checkpoint is gone.
        Interrupted: stopped on request; scored samples are kept.
    """
    with StopRequest() as stop:
        return _evaluate(engine_switch.effective(run, folder), folder, reporter, stop, timing)


def evaluate_checkpoint(
    run: RunSpec,
    path: Path,
    *,
    reporter: Reporter,
    store: RunStore | None = None,
    timing: Timing = DEFAULT,
) -> Results:
    """Results of every evaluation `run` declares, for any checkpoint; kept in `evaluations/`.

    Raises:
        CheckpointError: there is no model at `path`, or it does not fit the run's backbone.
        Interrupted: stopped on request; scored samples are kept.
    """
    store = store or RunStore(run.results_dir)
    manifest.check_if_listed(model_folder(path))
    content = checkpoint_hash(path)
    run.backbone.check(model_folder(path))  # also where a former result would be reused
    with StopRequest() as stop:
        evaluation = Evaluation(run, path, store.evaluations_dir, reporter, stop, timing)
        return {unit.label: evaluation.results(unit) for unit in units(run, content)}


def _attempt(
    run: RunSpec, workspace: RunWorkspace, evaluate: bool, span: Topology, engine: Engine | None
) -> Results:
    """This claim's attempt, to its publication or to an error that is recorded in its folder."""
    claim, found = workspace.claim, Results()
    try:
        workspace.log(f"attempt {claim.attempt} at {workspace.run.name} by {claim.owner}")
        if engine is not None:
            run = _switched(run, workspace, engine)
        result = _train(run, workspace, span)
        if evaluate:
            evaluation = Evaluation(
                run,
                workspace.run.model(result),
                workspace.run.evaluations_dir,
                workspace,
                workspace.stop,
                workspace.timing,
            )
            for unit in units(run, result.checkpoint_hash):
                found[unit.label] = evaluation.results(unit)
        workspace.log("finished")
        claim.publish()
    except BaseException as error:
        if workspace.pruned and isinstance(error, Interrupted) and not workspace.stop:
            workspace.note("pruned: its search has it stop here")
            claim.release("pruned")
            raise Pruned("stopped by the search's pruner") from error
        _ended_by(error, workspace)
        if isinstance(error, Exception):
            raise failure.for_user(error, workspace.folder / LOG) from error
        raise
    _drop_optimizers(workspace)
    return found


def _switched(run: RunSpec, workspace: RunWorkspace, engine: Engine) -> RunSpec:
    """The run with another engine from its last checkpoint on, which its folder remembers."""
    homes = workspace.checkpoint_dirs
    found = checkpoint.newest(homes, run.rl.steps, workspace.note) if "rl" in run.stages else None
    done = checkpoint.State.read(found).step if found else 0
    workspace.claim.ensure()
    run = engine_switch.record(workspace.run, run, engine, done, now())
    workspace.note(engine_switch.mixed(workspace.run.folder))
    return run


def _train(run: RunSpec, workspace: RunWorkspace, span: Topology) -> records.Result:
    """Run the stages; what they ended in is written to result.json and returned."""
    from vexp.train.stages import train  # brings torch, which provenance describes

    config = to_dict(run)
    write_json(workspace.folder / CONFIG, masking.stored(config))
    switches = [one.to_dict() for one in engine_switch.switches(workspace.run.folder)]
    provenance.record(workspace.folder, config, now(), switches=switches)
    with together(run, workspace, workspace.folder / CONFIG, span):
        trained = train(run, workspace)
    model, content = trained.model, f"initial-{workspace.run.hash}"
    if trained.checkpoint is not None:
        model = _adopted(trained.checkpoint, workspace.checkpoint_dirs[0]) / MODEL
    if model is not None:
        content = checkpoint_hash(model)
    workspace.claim.ensure()
    place = os.path.relpath(model, workspace.run.folder) if model is not None else None
    result = records.Result(place, content, trained.step)
    write_json(workspace.folder / RESULT, records.plain(result))
    return result


def _evaluate(
    run: RunSpec,
    folder: RunFolder,
    reporter: Reporter,
    stop: StopRequest,
    timing: Timing,
) -> Results:
    """Evaluations of a published run: those that are there, and those that have to be made."""
    result = folder.result()
    if result is None:
        raise RunError(
            "this run has no finished training to evaluate",
            where=str(folder.folder),
            remedy="`vexp run` with the same settings finishes it",
        )
    model = folder.model(result)
    content = result.checkpoint_hash if model is not None else None
    evaluation = Evaluation(run, model, folder.evaluations_dir, reporter, stop, timing, content)
    found = Results()
    for unit in units(run, result.checkpoint_hash):
        here = model is None or model.is_dir()
        if find(folder.evaluations_dir, unit.key) is None and not here:
            raise RunError(
                f"evaluation {unit.label!r} is missing, and so is the checkpoint it needs",
                where=str(model),
                accepted="this run was imported: it has results only" if folder.imported else "",
                remedy="evaluate it where its checkpoint is, or train it in another results_dir",
            )
        found[unit.label] = evaluation.results(unit)
    return found


def _ended_by(error: BaseException, workspace: RunWorkspace) -> None:
    """Record why the attempt ended, and give the claim up. Must not hide `error` by its own."""
    if isinstance(error, ClaimLost):
        workspace.claim.heartbeat.stop()
        return
    described = failure.describe(error, now())
    workspace.log(f"{described.kind}: {failure.traceback_of(error)}")
    # What a machine did to one of the processes is no failure of the run: the next call goes on.
    stopped = described.kind in ("interrupted", "infra")
    try:
        write_json(workspace.folder / failure.RECORD, described.to_dict())
    except (StorageError, OSError) as second:
        workspace.reporter.note(f"the failure could not be recorded: {second}")
    workspace.claim.release("stopped" if stopped else "failed")


def _drop_optimizers(workspace: RunWorkspace) -> None:
    """Nothing resumes a published run. What cannot be deleted now is left to `vexp clean`."""
    try:
        for home in workspace.checkpoint_dirs:
            for folder in home.glob("step-*"):
                drop_optimizer(folder)
    except StorageError as error:
        workspace.note(f"the run is finished, but: {error}")


def _adopted(found: Path, home: Path) -> Path:
    """The checkpoint below this attempt's own `home`; hard-linked if a former attempt wrote it."""
    target = home / found.name
    if found.parent != home and not target.exists():
        with new_folder(target) as aside:
            shutil.copytree(found, aside, copy_function=_link_or_copy, dirs_exist_ok=True)
    return target


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
