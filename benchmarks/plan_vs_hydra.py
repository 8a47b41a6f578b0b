"""How long planning takes, beside composing every point with Hydra.

Every command is a fresh process, timed from its start to its end.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from benchmarks.commands import Took, lines, timed, vexp
from benchmarks.machine import describe
from benchmarks.sweep_files import overrides_of, write_sweep

ROOT = Path(__file__).resolve().parents[1]
COMPOSED = 60  # points that Hydra composes
MULTIRUN = (5, 25)  # jobs of its two multiruns; the difference is what a job takes
WANTED_RATIO = 30
LIMITS_S = {"plan 1000": 2.0, "plan 10000": 15.0}


def planning(folder: Path, counts: tuple[int, ...], times: int) -> dict[str, Took]:
    """`vexp plan` of sweeps of so many points, none of which has run."""
    found = {}
    for count in counts:
        path = write_sweep(folder, count)
        found[f"plan {count}"] = timed(vexp("plan", path.name, "--json"), folder, times)
    return found


def hydra_loop(points: list[list[str]]) -> Took:
    """Hydra's `compose`, per point."""
    command = [sys.executable, "-m", "benchmarks.hydra_side", "loop"]
    done = subprocess.run(
        command, input=json.dumps(points), cwd=ROOT, capture_output=True, text=True, check=True
    )
    return Took(**json.loads(done.stdout.splitlines()[-1]))


def hydra_multirun(folder: Path, jobs: tuple[int, int]) -> Took:
    """Hydra's multirun, per job that does nothing."""
    taken = []
    for count in jobs:
        seeds = ",".join(map(str, range(count)))
        command = [sys.executable, "-m", "benchmarks.hydra_side", "--multirun", f"+seed={seeds}"]
        taken.append(timed([*command, f"hydra.sweep.dir={folder}/multirun"], ROOT, 1))
    few, many = taken
    count = jobs[1] - jobs[0]
    return Took((many.wall_s - few.wall_s) / count, (many.cpu_s - few.cpu_s) / count)


def measure(quick: bool) -> dict[str, Any]:
    """All of it, as one JSON object."""
    counts, times = ((200, 400), 1) if quick else ((1000, 10_000), 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        points = overrides_of(write_sweep(folder, 1000))
        some = points[:: len(points) // (5 if quick else COMPOSED)]
        ours = planning(folder, counts, times)
        loop = hydra_loop(some)
        multirun = hydra_multirun(folder, (1, 3) if quick else MULTIRUN)
        # the same machine a moment later: the ratio is taken between neighbours in time
        per_point = ours[f"plan {counts[0]}"]
    limits = {name: limit for name, limit in LIMITS_S.items() if name in ours}
    ratio = loop.cpu_s / (per_point.cpu_s / counts[0])
    missed = [name for name, limit in limits.items() if ours[name].cpu_s > limit]
    return {
        "ratio": ratio,  # Hydra's time per point over ours, in CPU time
        "ratio_wall": loop.wall_s / (per_point.wall_s / counts[0]),
        "target": WANTED_RATIO,
        "hydra_compose_per_point": asdict(loop),
        "hydra_multirun_per_job": asdict(multirun),
        "commands": {name: asdict(took) for name, took in ours.items()},
        "limits_s": limits,
        "missed": missed,
        "ok": ratio >= WANTED_RATIO and not missed,
        "settings": {"points": list(counts), "composed": len(some), "machine": describe()},
    }


def as_text(found: dict[str, Any]) -> str:
    """One line per command, then Hydra's."""
    commands = {name: Took(**took) for name, took in found["commands"].items()}
    text = lines(commands, found["limits_s"])
    for name, key in (("compose, a point", "hydra_compose_per_point"),
                      ("multirun, a job", "hydra_multirun_per_job")):  # fmt: skip
        took = found[key]
        text.append(
            f"Hydra {name:18}{1000 * took['wall_s']:8.1f} ms{1000 * took['cpu_s']:8.1f} ms CPU"
        )
    text.append(f"ratio {found['ratio']:.0f} in CPU time, {found['ratio_wall']:.0f} in time")
    return "\n".join(text)


@click.command(help=__doc__)
@click.option("--json", "as_object", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="Small sweeps, to see that it works.")
def main(as_object: bool, quick: bool) -> None:
    """Measure and print; exit 1 if a target is missed in CPU time (never with --quick)."""
    found = measure(quick)
    click.echo(json.dumps(found) if as_object else as_text(found))
    sys.exit(0 if quick or found["ok"] else 1)


if __name__ == "__main__":
    main()
