"""How long a table of 10,000 runs with 12 benchmarks takes: reading, computing, rendering.

    python -m benchmarks.table_size [--runs 10000]

The runs' folders are made first (not measured). Measured is what `vexp table` does after the sweep
file is resolved: every results file is read, every cell computed and tested, Markdown written.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import tempfile
import time
from pathlib import Path

import click

from vexp.config.compose import resolve
from vexp.config.identity import Identity
from vexp.runs.store import RunStore
from vexp.sweeps.points import Point, Training
from vexp.sweeps.schema import Row, Sweep
from vexp.sweeps.table import Column, TableSpec
from vexp.tables.collect import collect
from vexp.tables.frame import build_frame
from vexp.tables.present import sheet_of
from vexp.tables.render import FORMATS

BENCHMARKS, SEEDS, TARGET_S = 12, 5, 3.0


def make(root: Path, runs: int) -> tuple[Sweep, list[Point]]:
    """Folders of finished runs with 12 benchmark results each, and the sweep that declares them."""
    rows = tuple(Row(name=f"row{number}") for number in range(runs // SEEDS))
    columns = tuple(
        Column(id=f"b{i}", benchmark=f"b{i}", scale="percent") for i in range(BENCHMARKS)
    )
    table = TableSpec(columns=columns, baseline="row0")
    sweep = Sweep(
        name="size", path=Path("size.yaml"), rows=rows, seeds=tuple(range(SEEDS)), table=table
    )
    base = resolve([])
    base = dataclasses.replace(base, evaluator={})
    points = []
    for index, row in enumerate(rows):
        for seed in sweep.seeds:
            number = index * SEEDS + seed
            identity = Identity(hash=f"{number:012x}", slug="grpo", inputs={})
            points.append(Point(row, {}, seed, (), base, identity))
            _folder(root / "runs" / identity.name, number)
    return sweep, points


def _folder(folder: Path, number: int) -> None:
    own = folder / "attempts" / "0001"
    own.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    (folder / "done.json").write_text('{"attempt": 1}')
    result = {"format": 1, "checkpoint": None, "checkpoint_hash": f"c{number}", "step": 1}
    (own / "result.json").write_text(json.dumps(result))
    for place in range(BENCHMARKS):
        value = 0.4 + (number * 7919 + place * 104_729) % 1000 / 5000
        here = folder / "evaluations" / f"b{place}-{place:016x}"
        here.mkdir(parents=True)
        content = {
            "format": 1, "name": f"b{place}", "key": f"{place:016x}", "checkpoint": f"c{number}",
            "metrics": {"score": {"value": value, "stderr": 0.01, "n": 1000}},
            "benchmark": f"b{place}", "main_metric": "score", "version": "1",
        }  # fmt: skip
        (here / "results.json").write_text(json.dumps(content))


@click.command(help=__doc__)
@click.option("--runs", default=10_000, show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def main(runs: int, repeats: int, as_json: bool) -> None:
    """Make, measure, and say whether the target was met."""
    gc.disable()  # as `vexp table` does
    with tempfile.TemporaryDirectory() as folder:
        sweep, points = make(Path(folder), runs)
        trainings = [Training((point,)) for point in points]
        seconds: list[dict[str, float]] = []
        for _ in range(repeats):
            begun = time.perf_counter()
            results = collect(trainings, RunStore(folder))
            read = time.perf_counter()
            frame = build_frame(sweep, points, results)
            built = time.perf_counter()
            text = FORMATS["md"](sheet_of(frame))
            ended = time.perf_counter()
            assert text.count("\n") > len(sweep.rows) and frame.finished == runs * BENCHMARKS
            seconds.append(
                {"read": read - begun, "compute": built - read, "render": ended - built,
                 "total": ended - begun}
            )  # fmt: skip
    best = min(seconds, key=lambda each: each["total"])
    found = {"runs": runs, "benchmarks": BENCHMARKS, "seconds": best, "all": seconds,
             "target_s": TARGET_S, "ok": best["total"] < TARGET_S}  # fmt: skip
    click.echo(json.dumps(found) if as_json else json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
