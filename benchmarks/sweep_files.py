"""A large sweep, and the run folders that it would leave if all of it were done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from vexp.runs.evaluations import units
from vexp.spec.composer import Composer
from vexp.sweeps.points import points
from vexp.sweeps.reader import read_sweep
from vexp.sweeps.schema import Sweep
from vexp.sweeps.span import Expansion

_METRICS = "".join(
    json.dumps({"step": step, "reward": 0.5, "loss": -0.01, "length": 12.5}) + "\n"
    for step in range(1, 61)
)
BENCHMARKS = 12
ROWS = "{grpo: [], dapo: [experiment=dapo], ease: [experiment=ease], vicra: [experiment=vicra]}"


def write_sweep(folder: Path, count: int) -> Path:
    """A sweep of `count` points (a multiple of 200): four methods, three axes, seeds."""
    path = folder / f"grid_{count}.yaml"
    columns = ", ".join(f"{{benchmark: b{n}, scale: percent}}" for n in range(BENCHMARKS))
    path.write_text(
        "base: ['warm_start.seed=${seed}']\n"
        f"rows: {ROWS}\n"
        "axes:\n"
        "  rl.learning_rate: [1e-6, 2e-6, 3e-6, 4e-6, 5e-6]\n"
        "  rollout.group_size: [4, 8, 12, 16, 20]\n"
        "  rl.prompts_per_step: [8, 16]\n"
        f"seeds: {list(range(1, count // 200 + 1))}\n"
        f"table: {{title: Many runs, columns: [{columns}], baseline: grpo}}\n"
    )
    return path


def overrides_of(path: Path) -> list[list[str]]:
    """The overrides of each point, as Hydra takes them: `++` for keys that no file has."""
    sweep: Sweep = read_sweep(path)
    span = Expansion(sweep, Composer(), lambda _problems, _row: None)
    return [[_forced(override.text) for override in place.overrides] for place in span.places()]


def _forced(text: str) -> str:
    return text if text.startswith("experiment=") else f"++{text}"


def fabricate(path: Path, results: Path) -> int:
    """Folders of finished, evaluated runs for every point; how many."""
    made = 0
    for point in points(read_sweep(path)):
        folder, content = results / "runs" / point.identity.name, f"c-{point.identity.hash}"
        (folder / "attempts" / "0001").mkdir(parents=True)
        _write(folder / "run.json", {"format": 1, "config": {}, "science": {}})
        _write(folder / "done.json", {"format": 1, "attempt": 1})
        result = {"format": 1, "checkpoint": None, "checkpoint_hash": content, "step": 1}
        attempt = folder / "attempts" / "0001"
        _write(attempt / "result.json", result)
        _write(attempt / "progress.json", {"stage": "rl", "step": 60, "total": 60, "metrics": {}})
        (attempt / "metrics.jsonl").write_text(_METRICS)
        for unit in units(point.run, content):
            scored = folder / "evaluations" / unit.folder_name
            scored.mkdir(parents=True)
            found = {"format": 1, "name": unit.label, "key": unit.key, "checkpoint": content}
            _write(scored / "results.json", found | {"metrics": {"accuracy": {"value": 0.5}}})
        made += 1
    return made


def fabricate_benchmarks(path: Path, results: Path) -> None:
    """A result of each benchmark for every point's run, as `vexp import` would leave it."""
    for number, point in enumerate(points(read_sweep(path))):
        for place in range(BENCHMARKS):
            key, name = f"{place:016x}", f"b{place}"
            home = results / "runs" / point.identity.name / "evaluations" / f"{name}-{key}"
            home.mkdir(parents=True)
            value = 0.4 + (number * 7919 + place * 104_729) % 1000 / 5000
            content = {
                "format": 1, "name": name, "key": key, "checkpoint": f"c-{point.identity.hash}",
                "metrics": {"score": {"value": value, "stderr": 0.01, "n": 1000}},
                "benchmark": name, "main_metric": "score", "version": "1",
            }  # fmt: skip
            _write(home / "results.json", content)


def _write(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content))
