"""How long planning takes, beside composing every point with Hydra; and status over many runs.

Every command is a fresh process, timed from its start to its end.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import describe
from benchmarks.sweep_files import fabricate, overrides_of, write_sweep

ROOT = Path(__file__).resolve().parents[1]
COMPOSED = 60  # points that Hydra composes
MULTIRUN = (5, 25)  # jobs of its two multiruns; the difference is what a job takes
WANTED_RATIO = 30
LIMITS_S = {"plan 1000": 2.0, "plan 10000": 15.0, "status": 2.0, "launch": 2.0}


@dataclass(frozen=True)
class Took:
    """One command from its start to its end."""

    wall_s: float
    cpu_s: float  # less moved by what else the machine does


def timed(command: list[str], folder: Path, times: int = 3) -> Took:
    """The median of some starts.

    Raises:
        RuntimeError: if it fails; the message ends with what it printed.
    """
    taken = []
    for _ in range(times):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
        wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise RuntimeError(f"{command} failed:\n{done.stderr.decode()[-2000:]}")
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        taken.append(Took(wall, cpu))
    return Took(
        statistics.median(took.wall_s for took in taken),
        statistics.median(took.cpu_s for took in taken),
    )


def vexp(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "vexp", *arguments, "--json"]


def planning(folder: Path, counts: tuple[int, ...], times: int) -> dict[str, Took]:
    """`vexp plan` of sweeps of so many points, none of which has run."""
    found = {}
    for count in counts:
        path = write_sweep(folder, count)
        found[f"plan {count}"] = timed(vexp("plan", path.name), folder, times)
    return found


def looking(folder: Path, count: int, times: int) -> dict[str, Took]:
    """`vexp status`, and a `vexp launch` with nothing to do, in a folder of `count` finished runs.

    Of a sweep of 200 of them, and of the sweep of them all.
    """
    whole, small = write_sweep(folder, count), write_sweep(folder, 200)
    fabricate(whole, folder / "results")
    found = {}
    for name, path in (("", small), (f" of all {count}", whole)):
        found[f"launch{name}"] = timed(vexp("launch", path.name), folder, times)
        found[f"status{name}"] = timed(vexp("status", path.name), folder, times)
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
        commands = ours | looking(folder, counts[-1], times)
    limits = {name: limit for name, limit in LIMITS_S.items() if name in commands}
    ratio = loop.cpu_s / (per_point.cpu_s / counts[0])
    missed = [name for name, limit in limits.items() if commands[name].cpu_s > limit]
    return {
        "ratio": ratio,  # Hydra's time per point over ours, in CPU time
        "ratio_wall": loop.wall_s / (per_point.wall_s / counts[0]),
        "target": WANTED_RATIO,
        "hydra_compose_per_point": asdict(loop),
        "hydra_multirun_per_job": asdict(multirun),
        "commands": {name: asdict(took) for name, took in commands.items()},
        "limits_s": limits,
        "missed": missed,
        "ok": ratio >= WANTED_RATIO and not missed,
        "settings": {"points": list(counts), "composed": len(some), "machine": describe()},
    }


def as_text(found: dict[str, Any]) -> str:
    """One line per command, then Hydra's."""
    lines = []
    for name, took in found["commands"].items():
        limit = found["limits_s"].get(name)
        allowed = "" if limit is None else f"   (at most {limit:g})"
        lines.append(f"{name:24}{took['wall_s']:8.2f} s {took['cpu_s']:8.2f} s CPU{allowed}")
    for name, key in (("compose, a point", "hydra_compose_per_point"),
                      ("multirun, a job", "hydra_multirun_per_job")):  # fmt: skip
        took = found[key]
        lines.append(
            f"Hydra {name:18}{1000 * took['wall_s']:8.1f} ms{1000 * took['cpu_s']:8.1f} ms CPU"
        )
    lines.append(f"ratio {found['ratio']:.0f} in CPU time, {found['ratio_wall']:.0f} in time")
    return "\n".join(lines)


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
