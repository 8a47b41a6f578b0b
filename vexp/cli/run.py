"""`vexp run`: one run, here and now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from vexp.cli.options import config_dir_option, json_option, overrides_argument


@click.command("run")
@overrides_argument
@config_dir_option
@click.option("--no-eval", is_flag=True, help="Train only.")
@click.option("--wait", is_flag=True, help="Wait if another process works on this run.")
@click.option(
    "--switch",
    "switches",
    multiple=True,
    metavar="engine=NAME",
    help="Go on with another engine (engine=…, engine.FIELD=…); the run is then called mixed.",
)
@json_option
def command(
    overrides: tuple[str, ...],
    config_dirs: tuple[Path, ...],
    no_eval: bool,
    wait: bool,
    switches: tuple[str, ...],
    as_json: bool,
) -> None:
    """Train and evaluate one run. Ctrl-C saves and stops; the same command goes on from there.

    Examples: `vexp run experiment=dapo seed=2`, `vexp run rl.steps=10 algorithm.clip_high=0.3`.
    """
    from vexp.cli.progress import ProgressBar
    from vexp.runs import engine_switch
    from vexp.runs.execute import execute
    from vexp.spec.identity import training_id
    from vexp.spec.resolve import resolve

    run = resolve(overrides, config_dirs=config_dirs)
    engine = engine_switch.chosen(overrides, switches, config_dirs) if switches else None
    with ProgressBar() as progress:
        if not run.unknown():
            progress.note(f"run {training_id(run).name}")
        outcome = execute(run, reporter=progress, evaluate=not no_eval, wait=wait, engine=engine)
    mixed = engine_switch.mixed(outcome.run.folder)
    if as_json:
        found = {
            "id": outcome.run.name,
            "folder": str(outcome.run.folder),
            "state": outcome.state,
            "mixed": mixed or None,
            "evaluations": {label: dict(found) for label, found in outcome.evaluations.items()},
        }
        click.echo(json.dumps(found, indent=2))
        return
    for label, results in outcome.evaluations.items():
        click.echo(f"{label}: {summary(results['metrics'])}")
    if mixed:
        click.echo(mixed)
    click.echo(f"{outcome.state}: {outcome.run.folder}")
    click.echo(f"next: vexp show {outcome.run.hash}")


def summary(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Metrics of an evaluation on one line: value ± standard error (n)."""
    return "  ".join(
        f"{name} {found['value']:.3f}{_error(found['stderr'])} (n={found['n']})"
        for name, found in metrics.items()
    )


def _error(stderr: float | None) -> str:
    """One sample has no standard error."""
    return "" if stderr is None else f" ± {stderr:.3f}"
