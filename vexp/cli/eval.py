"""`vexp eval`: score a run or any checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vexp.cli.options import UserPathType, config_dir_option, json_option, results_option

if TYPE_CHECKING:
    from vexp.runs.execute import Results
    from vexp.runs.store import RunFolder
    from vexp.runs.workspace import Reporter
    from vexp.spec.run import RunSpec


@click.command("eval")
@click.argument("target")
@click.argument("overrides", nargs=-1, metavar="[OVERRIDE]...")
@click.option(
    "--benchmarks",
    help="Benchmarks of lmms-eval instead: names with commas; `ease` for all of a paper's, "
    "`ease/table1` for those of a published table.",
)
@click.option(
    "--data",
    type=UserPathType(exists=True, file_okay=False),
    help="A folder with a folder for each benchmark's files, by the benchmark's name.",
)
@click.option(
    "--trust", is_flag=True, help="Load the code (plugins) that a run of somebody else names."
)
@config_dir_option
@results_option
@json_option
def command(
    target: str,
    overrides: tuple[str, ...],
    benchmarks: str | None,
    data: Path | None,
    trust: bool,
    config_dirs: tuple[Path, ...],
    results_dir: Path,
    as_json: bool,
) -> None:
    """Score TARGET: a run (folder, id, or start of its hash) or a checkpoint folder.

    A run is scored with the evaluators of its own config; overrides of `evaluator` replace them.
    A checkpoint is scored as a run with these overrides would be. What was scored before is reused.
    `--benchmarks pope,mathvista_testmini` or `--benchmarks ease` asks for these and nothing else;
    their settings are evaluator.<benchmark>.…. `vexp list benchmarks` names them.
    """
    from vexp.cli.progress import ProgressBar
    from vexp.cli.run import summary
    from vexp.config.grammar import quoted
    from vexp.runs.record import RECORD
    from vexp.runs.store import RunStore
    from vexp.spec.resolve import resolve

    overrides = (*_of_benchmarks(benchmarks, data), *overrides)
    store = RunStore(results_dir)
    path = Path(target)
    checkpoint = path.is_dir() and not (path / RECORD).is_file()
    with ProgressBar() as progress:
        if checkpoint:
            place = f"results_dir={quoted(str(results_dir))}"
            spec = resolve([*overrides, place], config_dirs=config_dirs)
            from vexp.runs.execute import evaluate_checkpoint

            found = evaluate_checkpoint(spec, path, reporter=progress, store=store)
        else:
            found = _run(store.load(target), overrides, config_dirs, progress, trust)
    if as_json:
        click.echo(json.dumps({label: dict(results) for label, results in found.items()}, indent=2))
        return
    for label, results in found.items():
        click.echo(f"{label}: {summary(results['metrics'])}")
    if not found:
        click.echo("no evaluator is configured; add one, e.g. evaluator.heldout=heldout")


def of_table(name: str) -> list[str]:
    """The benchmarks in the columns of a published table.

    Raises:
        ConfigError: there is no such table.
    """
    from vexp.tables.reference import load

    return [column.benchmark for column in load(name).columns if column.benchmark]


def _of_benchmarks(benchmarks: str | None, data: Path | None) -> list[str]:
    """Overrides that put these benchmarks in the place of the held-out questions.

    Raises:
        ConfigError: for every name that is no benchmark and no paper.
    """
    if benchmarks is None:
        return []
    from vexp.evaluator.benchmarks import chosen

    asked = [name.strip() for name in benchmarks.split(",") if name.strip()]
    names = [each for name in asked for each in (of_table(name) if "/" in name else [name])]
    found = ["~evaluator.heldout"]
    for name in chosen(names, where="--benchmarks"):
        found.append(f"+evaluator.{name}={{name: lmms_eval, benchmark: {name}}}")
        if data is not None and (data / name).exists():
            found.append(f"+evaluator.{name}.data='{(data / name).absolute()}'")
    return found


def _run(
    folder: RunFolder,
    overrides: tuple[str, ...],
    config_dirs: tuple[Path, ...],
    progress: Reporter,
    trusting: bool,
) -> Results:
    from vexp.errors import ConfigError, Problem
    from vexp.runs import trust
    from vexp.runs.execute import evaluate_run
    from vexp.spec.run import replace

    plugins = trust.plugins_of(folder.record)
    if trusting and plugins and trust.is_foreign(folder.folder, folder.record):
        progress.note(f"loading code that this run names, as told: {', '.join(plugins)}")
    spec: RunSpec = folder.spec(trusting=trusting)
    foreign = [o for o in overrides if not o.lstrip("+~").startswith(("evaluator.", "compute."))]
    if foreign:
        raise ConfigError(
            [
                Problem(
                    f"a finished run cannot be changed by `{override}`",
                    where="override of vexp eval",
                    accepted="overrides of evaluator.* and compute.*",
                    remedy="another training is another run: vexp run",
                )
                for override in foreign
            ]
        )
    if overrides:
        from vexp.spec.resolve import resolve

        asked = resolve(overrides, config_dirs=config_dirs)
        evaluator = asked.evaluator if any("evaluator." in o for o in overrides) else spec.evaluator
        compute = asked.compute if any("compute." in o for o in overrides) else spec.compute
        spec = replace(spec, evaluator=evaluator, compute=compute)
    return evaluate_run(spec, folder, reporter=progress)
