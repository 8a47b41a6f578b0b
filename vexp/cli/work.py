"""Hidden commands that launchers start: a sweep's worker, and the process of one run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vexp.errors import RunError

if TYPE_CHECKING:
    from vexp.spec import RunSpec


@click.command("_work", hidden=True)
@click.argument("state", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--slot", type=int, required=True)
def work(state: Path, slot: int) -> None:
    """Serve the sweep whose state folder is STATE until nothing is left to do."""
    from vexp.sweeps.state import SweepState
    from vexp.sweeps.worker import work as serve

    serve(SweepState(state), slot)


@click.command("_run", hidden=True)
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--config", type=click.Path(path_type=Path), help="Instead of the folder's own.")
@click.option("--trial", type=click.Path(path_type=Path), help="The trial that it belongs to.")
@click.option("--plugins", type=click.Path(path_type=Path), help="Folder with copies of plugins.")
@click.option("--wait", is_flag=True, help="Wait for another process that works on it.")
def run(
    folder: Path, config: Path | None, trial: Path | None, plugins: Path | None, wait: bool
) -> None:
    """Run what the run folder FOLDER says, going on from what exists; exit codes as `vexp run`."""
    from vexp.runs.execute import execute
    from vexp.runs.store import RECORD, RunFolder, RunStore

    here = RunFolder(folder)
    spec = (
        _spec(config, _read(config), plugins)
        if config
        else _spec(folder / RECORD, here.config, plugins)
    )
    judge = None
    if trial is not None:
        from vexp.sweeps.search.judge import Judge

        judge = Judge.of(trial.resolve(), here)
    store = RunStore(folder.parents[1])
    execute(spec, reporter=Lines(), store=store, folder=here, judge=judge, wait=wait)


@click.command("_task", hidden=True)
@click.argument("state", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("batch")
@click.option("--task", type=int, envvar="SLURM_ARRAY_TASK_ID", required=True)
def task(state: Path, batch: str, task: int) -> None:
    """Work on one run of the submission BATCH of the sweep whose state folder is STATE."""
    from vexp.sweeps.state import SweepState
    from vexp.sweeps.task import work_on

    raise click.exceptions.Exit(work_on(SweepState(state), batch, task))


class Lines:
    """A reporter for logs: messages only; progress lies in the run's folder."""

    def progress(
        self, stage: str, step: int, total: int | None, metrics: Mapping[str, float | int]
    ) -> None:
        pass

    def note(self, text: str) -> None:
        click.echo(text)


def _read(path: Path) -> dict[str, Any]:
    from vexp.files import read_json

    config = read_json(path)
    if not isinstance(config, dict):
        raise RunError("a run's config is missing or damaged", where=str(path))
    return config


def _spec(path: Path, config: Mapping[str, Any], plugins: Path | None) -> RunSpec:
    """The run that `config`, found at `path`, describes; of plugins, copies are taken first."""
    from vexp.config.schema import Origin, Reading, build
    from vexp.registry import REGISTRY
    from vexp.spec import RunSpec

    files = [_copy(Path(file), plugins) for file in config.get("plugins", ())]
    REGISTRY.load_plugins(files, origin=str(path))
    origins: dict[tuple[str, ...], Origin] = {(str(key),): Origin(str(path)) for key in config}
    return build(RunSpec, {**config, "plugins": list(map(str, files))}, Reading(origins=origins))


def _copy(file: Path, folder: Path | None) -> Path:
    copied = folder / file.name if folder is not None else file
    return copied if copied.is_file() else file
