"""What a run costs on Slurm beside its training: a sweep of trivial runs on a real cluster.

Starts the cluster of tests/slurm (slurm-wlm, munge, root), submits 200 runs whose training is a
stub of one step, waits until all are done and checks that each was done exactly once. The same
number of array tasks that run `true` shows what Slurm itself takes.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import describe

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.slurm.cluster import Cluster, missing  # noqa: E402
from tests.slurm.slurm_project import Project, published_once  # noqa: E402

PARALLEL = 6
KEPT = Path(__file__).with_name("results") / "slurm_overhead.json"


def measure(runs: int) -> dict[str, Any]:
    """Seconds and counts for a sweep of so many runs."""
    home = Path(tempfile.mkdtemp(prefix="slurm-overhead-"))
    cluster = Cluster(home / "cluster")
    home.chmod(0o755)
    (home / "project").mkdir()
    cluster.start()
    try:
        project = Project(home / "project", cluster)
        project.write(seeds=runs, steps=1, step_s=0, workers=PARALLEL)
        bare_s = _seconds(lambda: _bare(cluster, runs))
        launch_s = _seconds(lambda: project.vexp("launch", "s.yaml"))
        first_s = _seconds(lambda: project.wait_done(3600))
        noop_s = _seconds(lambda: project.vexp("launch", "s.yaml"))
        status_s = _seconds(lambda: project.vexp("status", "s.yaml", "--json"))
        published_once(project)
        attempts = [run.status().attempts for run in project.runs()]
        events = (project.folder / "results/sweeps/s/events.jsonl").read_text().splitlines()
        started = [row["run"] for row in map(json.loads, events) if row["event"] == "started"]
        assert len(attempts) == len(started) == len(set(started)) == project.tasks() == runs
        assert set(attempts) == {1}
    finally:
        cluster.stop()
        shutil.rmtree(home, ignore_errors=True)
    return {
        "runs": runs,
        "at_a_time": PARALLEL,
        "done_exactly_once": runs,
        "launch_s": round(launch_s, 2),
        "sweep_s": round(launch_s + first_s, 1),
        "per_run_s": round((launch_s + first_s) / runs, 3),
        "bare_slurm_s": round(bare_s, 1),
        "bare_slurm_per_task_s": round(bare_s / runs, 3),
        "launch_with_nothing_missing_s": round(noop_s, 2),
        "status_s": round(status_s, 2),
    }


def _bare(cluster: Cluster, tasks: int) -> None:
    size = cluster.max_array
    for first in range(0, tasks, size):
        last = min(size, tasks - first) - 1
        script = ["--wrap", "srun true", "-o", os.devnull, "-c", "1"]
        cluster.ask("sbatch", f"--array=0-{last}%{PARALLEL}", *script)
    while cluster.ask("squeue", "-h"):
        time.sleep(0.1)


def _seconds(call: Callable[[], object]) -> float:
    begin = time.monotonic()
    call()
    return time.monotonic() - begin


@click.command(help=__doc__)
@click.option("--runs", default=200, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Only print the result; keep nothing.")
def main(runs: int, as_json: bool) -> None:
    """Measure, print, and keep the result."""
    if reason := missing():
        raise click.ClickException(reason)
    found = {"machine": describe(), **measure(runs)}
    if not as_json:
        KEPT.write_text(json.dumps(found, indent=2) + "\n")
    click.echo(json.dumps(found))


if __name__ == "__main__":
    main()
