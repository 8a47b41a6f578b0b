"""`vexp tokens`: responses with each token coloured by the credit it gets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vexp.cli.options import UserPathType, results_option
from vexp.errors import ConfigError, Problem, RunError, suggest

if TYPE_CHECKING:
    from vexp.records import Results
    from vexp.runs.store import RunFolder


@click.command("tokens")
@click.argument("run")
@click.option("--evaluation", help="Its name in the config, where several have kept tokens.")
@click.option("--responses", type=click.IntRange(min=1), default=6, show_default=True)
@click.option(
    "--output",
    type=UserPathType(dir_okay=False),
    help="An .svg or .html file that needs nothing but itself; without it, the terminal.",
)
@results_option
def command(
    run: str, evaluation: str | None, responses: int, output: Path | None, results_dir: Path
) -> None:
    """Responses of RUN (folder, id, or start of its hash), coloured by the credit of each token.

    Shows what the evaluator `credit` has kept: `vexp eval RUN +evaluator.credit=credit`.
    """
    from vexp.files import write_text
    from vexp.runs.store import RunStore
    from vexp.tables.tokens import FORMATS, shown, terminal

    if output is not None and output.suffix not in FORMATS:
        raise ConfigError(
            Problem(
                f"unknown format {output.suffix!r}",
                where="--output",
                accepted=f"a file that ends in {' or '.join(FORMATS)}",
            )
        )
    folder = RunStore(results_dir).load(run)
    method, samples = _kept(folder, evaluation)
    chosen = shown(samples, responses)
    if output is None:
        from rich.console import Console

        Console().print(terminal(chosen))
        return
    title = f"Token weights of {method} credit, {folder.name}"
    write_text(output, FORMATS[output.suffix](chosen, title))
    click.echo(f"written: {output}")


def _kept(run: RunFolder, wanted: str | None) -> tuple[str, list[dict[str, Any]]]:
    """The credit method and the samples of the one evaluation that has kept tokens."""
    from vexp.runs.evaluations import read_results, read_samples
    from vexp.runs.rows import evaluation_folders

    found: dict[str, tuple[str, list[dict[str, Any]]]] = {}
    for folder in evaluation_folders(run):
        results = read_results(folder)
        if results.evaluator == "credit":
            samples = read_samples(folder)
            if any(sample.get("tokens") for sample in samples):
                found[results.name] = (_method(results), samples)
    if not found:
        raise RunError(
            "no evaluation of this run has kept tokens",
            where=str(run.folder),
            accepted="an evaluation by `credit` with keep of at least 1; imports have no responses",
            remedy=f"vexp eval {run.name} +evaluator.credit=credit",
        )
    if wanted is None and len(found) == 1:
        return next(iter(found.values()))
    if wanted not in found:
        what = f"there is no evaluation {wanted!r} with tokens" if wanted else "several have tokens"
        raise RunError(
            what,
            where="--evaluation",
            accepted=suggest(wanted or "", found, noun="evaluations"),
            remedy="name one of them",
        )
    return found[wanted]


def _method(results: Results) -> str:
    """The name of the credit method whose weights an evaluation by `credit` has kept."""
    credit = results.protocol.get("credit")
    return str(credit.get("name", "unknown")) if isinstance(credit, dict) else "unknown"
