"""Run all benchmarks and keep their table: `python -m benchmarks`, or `make bench`."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import describe
from benchmarks.report import write_report

NAMES = (
    "startup", "plan_vs_hydra", "many_runs", "losses_vs_trl", "step_vs_trl", "method_overhead",
)  # fmt: skip
RESULTS = Path(__file__).with_name("results")


def run_one(name: str, quick: bool) -> dict[str, Any]:
    """The JSON object a benchmark prints; a missed target is in it and is no failure.

    Raises:
        click.ClickException: if the benchmark ends without printing one.
    """
    click.echo(f"running benchmarks.{name}", err=True)
    options = ["--quick"] if quick and name != "losses_vs_trl" else []
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    try:
        found: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError) as error:
        raise click.ClickException(
            f"benchmarks.{name} ended with code {done.returncode} and printed no result"
        ) from error
    return found


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="See that all of them work; nothing is kept.")
@click.option("--only", type=click.Choice(NAMES), help="Run this one, beside the others as kept.")
def main(quick: bool, only: str | None) -> None:
    """Run, keep, and exit 1 if a target was missed."""
    found = _begun(only)
    names = (only,) if only else NAMES
    for name in names:
        found[name] = run_one(name, quick)
    if quick:
        click.echo("all benchmarks ran; nothing was kept")
        return
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{found['date']}-cpu.json").write_text(json.dumps(found, indent=1) + "\n")
    table = write_report(found, RESULTS / "README.md")
    click.echo(table)
    sys.exit(0 if all(found[name]["ok"] for name in names) else 1)


def _begun(only: str | None) -> dict[str, Any]:
    """What is to be added to: nothing yet, or with `only` the newest results that were kept."""
    kept = sorted(RESULTS.glob("*-cpu.json"))
    if only and kept:
        found: dict[str, Any] = json.loads(kept[-1].read_text())
        return found
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    return {"date": today, "machine": describe()}


if __name__ == "__main__":
    main()
