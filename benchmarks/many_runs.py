"""How long `vexp status`, `vexp table` and a `vexp launch` with nothing to do take over many runs.

Every command is a fresh process, timed from its start to its end, in a results folder in which all
runs of the sweep are done and evaluated. The table has 12 benchmarks and a baseline.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from benchmarks.commands import Took, lines, timed, vexp
from benchmarks.machine import describe
from benchmarks.sweep_files import fabricate, fabricate_benchmarks, write_sweep

RUNS = 10_000
FEW = 200  # points of a small sweep in the same results folder
COMMANDS = {"status": ("status",), "status --json": ("status", "--json"), "launch": ("launch",)}
LIMITS_S = {"status": 2.0, "launch": 2.0, "table": 3.0}


def measure(runs: int, times: int) -> dict[str, Any]:
    """All of it, as one JSON object."""
    found: dict[str, Took] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        whole, few = write_sweep(folder, runs), write_sweep(folder, FEW)
        fabricate(whole, folder / "results")
        for path in (whole, few):
            timed(vexp("launch", path.name), folder, 1)  # takes note of the runs, once
        for name, (command, *options) in COMMANDS.items():
            found[name] = timed(vexp(command, whole.name, *options), folder, times)
            took = timed(vexp(command, few.name, *options), folder, times)
            found[f"{name}, {FEW} of them"] = took
        fabricate_benchmarks(whole, folder / "results")
        found["table"] = timed(vexp("table", whole.name), folder, times)
    missed = [name for name, limit in LIMITS_S.items() if found[name].wall_s > limit]
    return {
        "commands": {name: asdict(took) for name, took in found.items()},
        "limits_s": LIMITS_S,
        "missed": missed,
        "ok": not missed,
        "settings": {"runs": runs, "times": times, "machine": describe()},
    }


def as_text(found: dict[str, Any]) -> str:
    """One line per command."""
    commands = {name: Took(**took) for name, took in found["commands"].items()}
    return "\n".join(lines(commands, found["limits_s"]))


@click.command(help=__doc__)
@click.option("--json", "as_object", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="Few runs, to see that it works.")
def main(as_object: bool, quick: bool) -> None:
    """Measure and print; exit 1 if a target is missed (never with --quick)."""
    found = measure(400, 1) if quick else measure(RUNS, 5)
    click.echo(json.dumps(found) if as_object else as_text(found))
    sys.exit(0 if quick or found["ok"] else 1)


if __name__ == "__main__":
    main()
