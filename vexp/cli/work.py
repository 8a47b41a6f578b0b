"""Hidden commands that launchers start: a sweep's worker, and the process of one run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vexp import masking
from vexp.errors import RunError

if TYPE_CHECKING:
    from vexp.spec.run import RunSpec


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
@click.option("--nodes", type=int, default=1, help="Nodes of this Slurm job.")
@click.option("--processes-per-node", type=int, help="Processes of the run on each node.")
def run(
    folder: Path,
    config: Path | None,
    trial: Path | None,
    plugins: Path | None,
    wait: bool,
    nodes: int,
    processes_per_node: int | None,
) -> None:
    """Run what the run folder FOLDER says, going on from what exists; exit codes as `vexp run`."""
    from vexp.runs import trust
    from vexp.runs.execute import execute
    from vexp.runs.processes import Topology
    from vexp.runs.record import RECORD
    from vexp.runs.store import RunFolder, RunStore

    here = RunFolder(folder)
    if config is None:
        trust.check(folder, here.record, str(folder / RECORD))
    spec = (
        _spec(config, _read(config), plugins)
        if config
        else _spec(folder / RECORD, here.config, plugins)
    )
    judge = None
    if trial is not None:
        from vexp.sweeps.search.pruning import Judge

        judge = Judge.of(trial.resolve(), here)
    store = RunStore(folder.parents[1])
    span = Topology(nodes, processes_per_node) if processes_per_node else None
    execute(spec, reporter=Lines(), store=store, folder=here, judge=judge, wait=wait, span=span)


@click.command("_follow", hidden=True)
@click.argument("config", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--at", required=True, help="Where the run's processes meet.")
@click.option("--world", type=int, required=True, help="How many they are.")
@click.option("--rank", type=int, required=True, help="Number of this one, or of the step's first.")
@click.option("--local-rank", type=int, default=0, help="Number of this one on its node.")
@click.option("--slurm", is_flag=True, help="Slurm says which task of its step this one is.")
def follow(config: Path, at: str, world: int, rank: int, local_rank: int, slurm: bool) -> None:
    """Do a share of the run that CONFIG describes, led by the process that started this one."""
    from vexp.runs import rank as following

    following.end_with_input()
    place = following.WorkerRank(at, rank, local_rank, world)
    if slurm:
        place = following.WorkerRank.in_step(at, rank, world)
    run = _spec(config, _read(config), None)
    raise click.exceptions.Exit(following.follow(run, place))


@click.command("_engine", hidden=True)
@click.argument(
    "home", type=click.Path(path_type=Path, exists=True, file_okay=False), required=False
)
@click.option("--call", help="Where the process that started this one waits, on another node.")
@click.option("--name", default="", help="There, which of the job's engines this one is.")
def engine(home: Path | None, call: str | None, name: str) -> None:
    """Be the vLLM of the process that started this one; HOME has the model's configuration."""
    from vexp.engine import _vllm_process

    if home is not None:
        _vllm_process.serve(home)
    elif call is not None:
        _vllm_process.serve_elsewhere(call, name)
    else:
        raise click.UsageError("either HOME or --call is needed")


@click.command("_task", hidden=True)
@click.argument("state", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("batch")
@click.option("--task", type=int, envvar="SLURM_ARRAY_TASK_ID", required=True)
@click.option("--nodes", type=int, default=1, help="Nodes of this job.")
@click.option("--processes-per-node", type=int, default=1, help="Processes of a run on each.")
def task(state: Path, batch: str, task: int, nodes: int, processes_per_node: int) -> None:
    """Work on one run of the submission BATCH of the sweep whose state folder is STATE."""
    from vexp.runs.processes import Topology
    from vexp.sweeps.state import SweepState
    from vexp.sweeps.task import work_on

    span = Topology(nodes, processes_per_node)
    raise click.exceptions.Exit(work_on(SweepState(state), batch, task, span))


class Lines:
    """A reporter for logs: messages only; progress lies in the run's folder."""

    def progress(
        self, stage: str, step: int, total: int | None, metrics: Mapping[str, float | int]
    ) -> None:
        pass

    def note(self, text: str) -> None:
        click.echo(masking.mask(text))


def _read(path: Path) -> dict[str, Any]:
    from vexp.files import read_json

    config = read_json(path)
    if not isinstance(config, dict):
        raise RunError("a run's config is missing or damaged", where=str(path))
    return config


def _spec(path: Path, config: Mapping[str, Any], plugins: Path | None) -> RunSpec:
    """The run that `config`, found at `path`, describes; of plugins, copies are taken first."""
    from vexp.config.schema import ConfigReading, Origin, build
    from vexp.registry import REGISTRY
    from vexp.spec.run import RunSpec

    files = [_copy(Path(file), plugins) for file in config.get("plugins", ())]
    REGISTRY.load_plugins(files, origin=str(path))
    config = masking.restored(config, str(path))
    origins: dict[tuple[str, ...], Origin] = {(str(key),): Origin(str(path)) for key in config}
    return build(
        RunSpec, {**config, "plugins": list(map(str, files))}, ConfigReading(origins=origins)
    )


def _copy(file: Path, folder: Path | None) -> Path:
    copied = folder / file.name if folder is not None else file
    return copied if copied.is_file() else file
