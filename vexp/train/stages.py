"""A run's stages in order, from nothing or from where a former attempt stopped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vexp.policy import parallel
from vexp.train import checkpoint, prompt_length
from vexp.train.batch import needs
from vexp.train.checkpoint import State
from vexp.train.golds import check_data
from vexp.train.loop import train_rl
from vexp.train.manifest import MODEL
from vexp.train.supervised import settings_of, supervised

if TYPE_CHECKING:
    from vexp.spec.run import RunSpec
    from vexp.train.workspace import Workspace


@dataclass(frozen=True)
class Trained:
    """What a run's stages end in."""

    model: Path | None  # folder in Hugging Face format; None: the backbone as it is
    checkpoint: (
        Path | None
    )  # the checkpoint the model is in; None: it is a shared stage, or there is none
    step: int  # steps of the last stage


def train(run: RunSpec, workspace: Workspace) -> Trained:
    """Run the stages; resumes from the newest checkpoint that is complete.

    Raises:
        Interrupted: after saving, when the workspace asked to stop.
        ConfigError: if the data is not as the datasets say, with every row at fault; or if a prompt
            is longer than there is room for.
        Diverged: if loss or gradient is not finite.
    """
    if not run.stages:
        return Trained(None, None, 0)
    if "rl" not in run.stages:
        _check_data(run, workspace)
        return Trained(_initial(run, workspace), None, settings_of(run, run.stages[-1]).steps)
    total = run.rl.steps
    found = parallel.path_from_rank_zero(
        lambda: checkpoint.newest(workspace.checkpoint_dirs, total, workspace.note)
    )
    if found is not None and State.read(found).step >= total:
        workspace.resumed(total)
        return Trained(found / MODEL, found, total)
    _check_data(run, workspace)
    run.engine.check()
    initial: Path | None = None
    if found is None or "reference_logprobs" in needs(run):
        initial = _initial(run, workspace)
    last = train_rl(run, workspace, initial, found)
    return Trained(last / MODEL if last else initial, last, total)


def _check_data(run: RunSpec, workspace: Workspace) -> None:
    if parallel.is_rank_zero():
        for note in check_data(run):
            workspace.note(note)
        prompt_length.check_prompts(run)


def _initial(run: RunSpec, workspace: Workspace) -> Path | None:
    """The model that the supervised stages end in; None: there are none, so it is the backbone."""
    model: Path | None = None
    for stage in run.stages:
        if stage != "rl":
            model = supervised(run, workspace, stage, model)
    return model
