"""A user's folder beside a cluster: a sweep, the command line, and what became of the runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.slurm.cluster import Cluster
from vexp.runs.claim import attempt_folder
from vexp.runs.store import RunFolder, RunStore

ROOT = Path(__file__).resolve().parents[2]
STUBS = f"""
base:
  - plugins=['{ROOT}/tests/runs/stub_plugin.py']
  - backbone=stub
  - evaluator.heldout={{name:stub}}
  - warm_start.steps=2
  - rl.steps=STEPS
  - checkpoint.every=3
rows: {{a: []}}
seeds: SEEDS
"""
LAUNCHER = {"name": "slurm", "gpus": 0, "cpus": 1, "time_min": 5, "workers": 3}


@dataclass
class Project:
    """A folder with one sweep, `s.yaml`, of runs that train by the stub."""

    folder: Path
    cluster: Cluster | None = None
    environment: dict[str, str] = field(default_factory=dict)
    jobs_environment: dict[str, str] = field(default_factory=dict)

    def hold(self, crawl_s: float = 3.0) -> None:
        """Let runs only crawl after a few steps, until `release`."""
        (self.folder / "hold").touch()
        held = {"VEXP_HOLD": str(self.folder / "hold"), "VEXP_CRAWL_S": str(crawl_s)}
        self.jobs_environment |= held

    def release(self) -> None:
        (self.folder / "hold").unlink()

    def write(self, *, seeds: int = 4, steps: int = 20, step_s: float = 0.3, text: str = "",
              **launcher: object) -> None:  # fmt: skip
        """Write the sweep; `launcher` are settings of launcher=slurm. A sweep that is given as text
        trains for real.
        """
        settings = LAUNCHER | launcher
        given = settings.pop("environment", {})
        settings["environment"] = ({} if text else self.stub(step_s)) | dict(given)
        lines = settings.get("setup", [])
        settings["setup"] = [f"export PYTHONPATH={ROOT}/tests/slurm/site", *lines]
        text = text or STUBS.replace("STEPS", str(steps)).replace(
            "SEEDS", str(list(range(1, seeds + 1)))
        )
        (self.folder / "s.yaml").write_text(f"{text}launcher: {json.dumps(settings)}\n")

    def stub(self, step_s: float) -> dict[str, str]:
        stub = {"VEXP_STUB": str(ROOT), "STUB_STEP_S": str(step_s)}
        return stub | self.jobs_environment

    def vexp(self, *arguments: str, check: bool = True, **env: str) -> str:
        """What a command prints; its errors if it may fail."""
        process = self.start(*arguments, **env)
        out, error = process.communicate(timeout=240)
        assert not check or process.returncode == 0, f"{arguments}: {out}\n{error}"
        return out + error

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        cluster = self.cluster.env if self.cluster else {}
        return subprocess.Popen(
            [sys.executable, "-m", "vexp", *arguments],
            cwd=self.folder,
            env=os.environ | cluster | {"PYTHONPATH": str(ROOT)} | self.environment | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def store(self) -> RunStore:
        return RunStore(self.folder / "results")

    def runs(self) -> list[RunFolder]:
        return self.store.runs()

    def states(self) -> list[str]:
        return sorted(status.state for status in self.store.statuses())

    def step(self, run: RunFolder) -> int:
        """How far the newest attempt at a run is."""
        status = run.status()
        found = attempt_folder(run.folder, max(1, status.attempts)) / "metrics.jsonl"
        return len(found.read_text().splitlines()) if found.exists() else 0

    def wait(self, condition: Callable[[], object], timeout_s: float = 150, what: str = "") -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"waited {timeout_s} s in vain {what}\n{self.report()}")
            time.sleep(0.1)

    def wait_all_at_work(self, count: int, step: int = 2) -> None:
        """Until `count` runs have come to a step at least."""
        self.wait(lambda: sum(self.step(run) >= step for run in self.runs()) >= count, 100)

    def wait_done(self, timeout_s: float = 180) -> None:
        self.wait(lambda: set(self.states()) == {"done"}, timeout_s, "for all runs to be done")

    def jobs(self) -> list[dict[str, str]]:
        """The sweep's jobs in the queue, as `vexp status` tells."""
        return json.loads(self.vexp("status", "s.yaml", "--json"))["jobs"]

    def tasks(self) -> int:
        """How many array tasks were ever submitted."""
        files = (self.folder / "results/sweeps/s/jobs").glob("*.json")
        return sum(len(json.loads(file.read_text())["runs"]) for file in files)

    def ends(self, run: RunFolder) -> list[str]:
        """Kinds in which the attempts that did not publish ended."""
        found = []
        for attempt in run.attempts():
            record = attempt_folder(run.folder, attempt) / "failure.json"
            found += [json.loads(record.read_text())["kind"]] if record.exists() else []
        return found

    def report(self) -> str:
        """Everything one wants to see of a test that failed."""
        lines = [f"{status.name}: {status}" for status in self.store.statuses()]
        for log in sorted(self.folder.glob("results/sweeps/s/jobs/*/*.out")):
            lines.append(f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}")
        if self.cluster:
            lines.append(self.cluster.ask("squeue", "-r"))
            lines.append(self.cluster.ask("sinfo", "-N", "-o", "%N %P %T %E"))
        return "\n".join(lines)


def science(project: Project) -> dict[str, bytes]:
    """Every byte that is a result, by run: weights, metrics, samples, scores."""
    found: dict[str, bytes] = {}
    for run in project.runs():
        attempt = attempt_folder(run.folder, run.published() or 0)
        found[f"{run.name}/metrics"] = (attempt / "metrics.jsonl").read_bytes()
        result = run.result()
        model = run.model(result) if result is not None else None
        assert model is not None
        for path in [*model.rglob("*"), *run.evaluations_dir.rglob("*")]:
            if path.is_file() and path.name != "provenance.json":
                inside = path.relative_to(model if model in path.parents else run.evaluations_dir)
                found[f"{run.name}/{inside}"] = path.read_bytes()
    return found


def published_once(project: Project) -> None:
    for run in project.runs():
        assert run.status().state == "done"
        assert not list(run.folder.glob("claim-*.json")), "a claim is left"
        results = [
            n for n in run.attempts() if (attempt_folder(run.folder, n) / "result.json").exists()
        ]
        assert results == [run.published()]
