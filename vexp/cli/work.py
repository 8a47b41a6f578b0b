"""Hidden commands that launchers start: a sweep's worker, and the process of one run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

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
def run(folder: Path, config: Path | None, trial: Path | None) -> None:
    """Run what the run folder FOLDER says, going on from what exists; exit codes as `vexp run`."""
    from vexp.runs.execute import execute
    from vexp.runs.store import RunFolder, RunStore

    here = RunFolder(folder)
    spec = _spec(config) if config else here.spec()
    judge = None
    if trial is not None:
        from vexp.sweeps.search.judge import Judge

        judge = Judge.of(trial.resolve(), here)
    store = RunStore(folder.parents[1])
    execute(spec, reporter=Lines(), store=store, folder=here, judge=judge)


class Lines:
    """A reporter for logs: messages only; progress lies in the run's folder."""

    def progress(
        self, stage: str, step: int, total: int | None, metrics: Mapping[str, float | int]
    ) -> None:
        pass

    def note(self, text: str) -> None:
        click.echo(text)


def _spec(path: Path) -> RunSpec:
    from vexp.config.schema import Origin, Reading, build
    from vexp.files import read_json
    from vexp.registry import REGISTRY
    from vexp.spec import RunSpec

    config = read_json(path)
    if not isinstance(config, dict):
        raise RunError("a run's config is missing or damaged", where=str(path))
    REGISTRY.load_plugins(config.get("plugins", ()), origin=str(path))
    origins: dict[tuple[str, ...], Origin] = {(str(key),): Origin(str(path)) for key in config}
    return build(RunSpec, config, Reading(origins=origins))
