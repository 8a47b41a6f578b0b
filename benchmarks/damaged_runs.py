"""What damaged run folders, and checkpoints with manifests, cost the commands that read results.

Three results folders hold the same finished runs. In one of them, one folder in a hundred is
damaged; in another, each run has a checkpoint with its manifest. The commands run in turn in all
three, so that what else the machine does hits them alike. Every command has to end, and to show
every run that is in order.
"""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from benchmarks.commands import Took, timed, vexp
from benchmarks.machine import describe
from benchmarks.sweep_files import fabricate, write_sweep

RUNS = 20_000
ONE_IN = 100  # runs of which one is damaged
DAMAGED_COSTS = 1.3  # times the time without damage, at most
MANIFESTS_COST = 1.03
COMMANDS: dict[str, tuple[str, ...]] = {
    "status": ("status", "SWEEP", "--json"),
    "plan": ("plan", "SWEEP", "--json"),
    "launch": ("launch", "SWEEP", "--dry-run"),
    "table": ("table", "SWEEP", "--format", "csv"),
    "clean": ("clean",),
    "export": ("export", "out.zip"),
}
CHECKED = ("status", "launch", "table")  # in which manifests may cost next to nothing


def measure(runs: int, times: int) -> dict[str, Any]:
    """All of it, as one JSON object."""
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place) / name for name in ("whole", "damaged", "checkpoints")]
        for folder in folders:
            _make(folder, runs)
        broken = _damage(folders[1] / "results" / "runs")
        _add_checkpoints(folders[2] / "results" / "runs")
        found = {name: _compared(name, folders, runs, times) for name in COMMANDS}
        healthy = _healthy(folders[1], runs)
    missed = [name for name, took in found.items() if took["damaged"] > DAMAGED_COSTS]
    missed += [f"{n}, manifests" for n in CHECKED if found[n]["checkpoints"] > MANIFESTS_COST]
    missed += [f"{name} shows {n}" for name, n in healthy.items() if n < runs - broken]
    return {
        "commands": found,
        "healthy": {"runs": runs - broken, **healthy},
        "limits": {"damaged": DAMAGED_COSTS, "manifests": MANIFESTS_COST},
        "missed": missed,
        "ok": not missed,
        "settings": {"runs": runs, "times": times, "machine": describe()},
    }


def _compared(name: str, folders: list[Path], runs: int, times: int) -> dict[str, Any]:
    """The least CPU time of a command in each folder, and as a multiple of that in the first."""
    command = vexp(*(f"grid_{runs}.yaml" if word == "SWEEP" else word for word in COMMANDS[name]))
    took: dict[str, list[Took]] = {folder.name: [] for folder in folders}
    for _ in range(times):
        for folder in folders:
            took[folder.name].append(timed(command, folder, 1, codes=(0, 1)))
    cpu = {name: min(each.cpu_s for each in all_) for name, all_ in took.items()}
    wall = {name: min(each.wall_s for each in all_) for name, all_ in took.items()}
    ratios = {name: seconds / cpu["whole"] for name, seconds in cpu.items() if name != "whole"}
    return {"cpu_s": cpu, "wall_s": wall, **ratios}


def _healthy(folder: Path, runs: int) -> dict[str, int]:
    """How many runs each command shows, of those that are in order."""

    def printed(*words: str) -> str:
        done = subprocess.run(vexp(*words), cwd=folder, capture_output=True, check=False)
        return done.stdout.decode()

    sweep = f"grid_{runs}.yaml"
    rows = csv.DictReader(io.StringIO(printed("table", sweep, "--format", "csv")))
    with zipfile.ZipFile(folder / "out.zip") as archive:
        exported = json.loads(archive.read("export.json"))["runs"]
    return {
        "status": json.loads(printed("status", sweep, "--json"))["trainings"]["done"],
        "table": sum(int(row["n"] or 0) for row in rows),
        "export": len(exported),
    }


def _make(folder: Path, runs: int) -> None:
    folder.mkdir()
    sweep = write_sweep(folder, runs)
    text = sweep.read_text()
    start = text.index("table:")
    sweep.write_text(f"{text[:start]}table: {{columns: [{{metric: accuracy}}]}}\n")
    fabricate(sweep, folder / "results")
    for run in (folder / "results" / "runs").iterdir():
        (run / "attempts" / "0001" / "provenance.json").write_text("{}")


def _damage(home: Path) -> int:
    """Damage one run in a hundred, each in one of some ways; how many."""
    ways: list[Callable[[Path], object]] = [
        lambda run: (run / "run.json").unlink(),
        lambda run: (run / "run.json").write_text("[1, 2]"),
        lambda run: (run / "done.json").write_bytes(b""),
        lambda run: (run / "attempts" / "0001" / "result.json").write_bytes(bytes(80)),
        lambda run: (run / "attempts").rename(run / "elsewhere"),
        lambda run: next(run.glob("evaluations/*/results.json")).write_text('{"format": 1'),
    ]
    chosen = sorted(home.iterdir())[::ONE_IN]
    for number, run in enumerate(chosen):
        ways[number % len(ways)](run)
    return len(chosen)


def _add_checkpoints(home: Path) -> None:
    for run in home.iterdir():
        folder = run / "attempts" / "0001" / "checkpoints" / "step-000060"
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "model.safetensors").write_bytes(bytes(1000))
        listed = {"model/model.safetensors": {"sha256": "0" * 64, "size": 1000}}
        (folder / "manifest.json").write_text(json.dumps({"format": 1, "files": listed}))


def as_text(found: dict[str, Any]) -> str:
    """One line per command."""
    lines = [f"{'':10}{'whole':>10}{'damaged':>16}{'checkpoints':>16}   (CPU)"]
    for name, took in found["commands"].items():
        cells = (f"{took['cpu_s'][k]:8.2f} s x{took[k]:.2f}" for k in ("damaged", "checkpoints"))
        lines.append(f"{name:10}{took['cpu_s']['whole']:8.2f} s{''.join(cells)}")
    lines.append(f"shown of {found['healthy']['runs']} that are in order: {found['healthy']}")
    return "\n".join([*lines, f"missed: {', '.join(found['missed']) or 'nothing'}"])


@click.command(help=__doc__)
@click.option("--json", "as_object", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="Few runs, to see that it works.")
def main(as_object: bool, quick: bool) -> None:
    """Measure and print; exit 1 if a target is missed (never with --quick)."""
    found = measure(400, 1) if quick else measure(RUNS, 3)
    click.echo(json.dumps(found) if as_object else as_text(found))
    sys.exit(0 if quick or found["ok"] else 1)


if __name__ == "__main__":
    main()
