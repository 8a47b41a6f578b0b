"""How long `vexp --help` and composing a run take, in starts of a bare interpreter.

All three start a fresh interpreter of the same environment, in turn, many times over.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import describe

COMPOSE = "from vexp.spec.resolve import resolve; resolve(['experiment=dapo', 'seed=2'])"


@dataclass(frozen=True)
class Start:
    """One thing to start, and how many bare starts it may take."""

    name: str
    command: list[str]
    limit: float | None  # None: what the others are measured against


def starts() -> list[Start]:
    """A bare interpreter, the help page, the default run composed and typed, and it printed."""
    script = Path(sys.executable).with_name("vexp")
    vexp = [str(script)] if script.is_file() else [sys.executable, "-m", "vexp"]
    return [
        Start("bare", [sys.executable, "-c", "pass"], None),
        Start("help", [*vexp, "--help"], 12),
        Start("compose", [sys.executable, "-c", COMPOSE], 30),
        Start("show", [*vexp, "show", "experiment=dapo", "seed=2"], None),
    ]


@dataclass(frozen=True)
class Took:
    """One start and exit."""

    seconds: float
    cpu_seconds: float  # less moved by what else the machine does


def measure(runs: int) -> dict[str, list[Took]]:
    """`runs` starts of each in turn, after two that nobody counts."""
    chosen = starts()
    taken: dict[str, list[Took]] = {start.name: [] for start in chosen}
    for turn in range(runs + 2):
        for start in chosen if turn % 2 == 0 else reversed(chosen):
            took = time_one(start)
            if turn >= 2:
                taken[start.name].append(took)
    return taken


def time_one(start: Start) -> Took:
    """Start it and wait for its end.

    Raises:
        RuntimeError: if it fails; the message ends with what it printed.
    """
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(start.command, capture_output=True, check=False)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{start.name} failed:\n{done.stderr.decode()[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Took(seconds, cpu)


def in_bare_starts(taken: dict[str, list[Took]], field: str) -> dict[str, float]:
    """Median over turns of each start, in bare starts of the same turn."""
    bare = [getattr(took, field) for took in taken["bare"]]
    return {
        name: statistics.median(getattr(t, field) / one for t, one in zip(own, bare, strict=True))
        for name, own in taken.items()
        if name != "bare"
    }


def summarise(taken: dict[str, list[Took]]) -> dict[str, Any]:
    """Medians and ratios; a limit is about time as the user sees it."""
    times_bare = in_bare_starts(taken, "seconds")
    limits = {start.name: start.limit for start in starts() if start.limit is not None}
    return {
        "ratios": {name: 1 / value for name, value in times_bare.items()},  # peer's time over ours
        "times_bare": times_bare,
        "cpu_times_bare": in_bare_starts(taken, "cpu_seconds"),
        "limits": limits,
        "ok": all(times_bare[name] <= limit for name, limit in limits.items()),
        "median_s": {
            name: statistics.median(took.seconds for took in own) for name, own in taken.items()
        },
        "settings": {"runs": len(taken["bare"]), "machine": describe()},
    }


def as_text(found: dict[str, Any]) -> str:
    """One line per start."""
    lines = []
    for name, seconds in found["median_s"].items():
        times = found["times_bare"].get(name)
        limit = found["limits"].get(name)
        allowed = "" if limit is None else f"   (at most {limit:g})"
        cpu = found["cpu_times_bare"].get(name)
        ratio = ""
        if times is not None:
            ratio = f"{times:7.1f} x a bare start, {cpu:.1f} x in CPU time{allowed}"
        lines.append(f"{name:10}{seconds * 1000:8.1f} ms{ratio}")
    return "\n".join(lines)


@click.command(help=__doc__)
@click.option("--json", "as_object", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="Three runs, to see that it works.")
@click.option("--runs", default=25, show_default=True, help="Timed runs of each.")
def main(as_object: bool, quick: bool, runs: int) -> None:
    """Measure and print; exit 1 beyond a limit (never with --quick)."""
    found = summarise(measure(3 if quick else runs))
    click.echo(json.dumps(found) if as_object else as_text(found))
    sys.exit(0 if quick or found["ok"] else 1)


if __name__ == "__main__":
    main()
