"""Tidy result rows: one per run, evaluation and metric. What tables are made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vexp.runs.claim import attempt_folder
from vexp.runs.evaluations import RESULTS, read_results
from vexp.runs.provenance import RECORD
from vexp.runs.store import RunFolder, RunStore, flattened


@dataclass(frozen=True)
class Row:
    """One number of one finished run."""

    run: str  # the run's id, `<slug>-<hash>`
    slug: str
    hash: str
    config: Mapping[str, Any] = field(repr=False)  # resolved, by dotted key
    science: Mapping[str, Any] = field(repr=False)  # what its weights depend on, by dotted key
    seed: int
    evaluation: str  # label in the config: `evaluator.<label>`
    evaluation_key: str
    checkpoint: str  # content hash of the scored checkpoint
    metric: str
    value: float
    stderr: float | None
    n: int | None  # samples behind the value
    folder: Path  # of the evaluation: results.json, samples.jsonl
    provenance: Path


def rows(store: RunStore, names: Iterable[str] | None = None) -> Iterator[Row]:
    """Rows of all finished runs, or of those with these ids; in order of run, evaluation, metric.

    Raises:
        RunError: for a record or a result that is damaged or of a newer format.
    """
    chosen = None if names is None else set(names)
    for run in store.runs():
        if chosen is None or run.name in chosen:
            yield from run_rows(run)


def run_rows(run: RunFolder) -> Iterator[Row]:
    """Rows of the published checkpoint of one run; none while it is unfinished."""
    result = run.result()
    if result is None:
        return
    config, science = flattened(run.config), flattened(run.record["science"])
    provenance = attempt_folder(run.folder, run.published() or 0) / RECORD
    for folder in evaluation_folders(run):
        found = read_results(folder)
        if found["checkpoint"] != result["checkpoint_hash"]:
            continue
        for metric, entry in found["metrics"].items():
            yield Row(
                run=run.name,
                slug=run.slug,
                hash=run.hash,
                config=config,
                science=science,
                seed=int(config.get("seed", 0)),
                evaluation=found["name"],
                evaluation_key=found["key"],
                checkpoint=found["checkpoint"],
                metric=metric,
                value=float(entry["value"]),
                stderr=_maybe_float(entry.get("stderr")),
                n=int(entry["n"]) if entry.get("n") is not None else None,
                folder=folder,
                provenance=provenance,
            )


def evaluation_folders(run: RunFolder) -> list[Path]:
    """Folders of a run's finished evaluations."""
    if not run.evaluations_dir.is_dir():
        return []
    entries = sorted(run.evaluations_dir.iterdir())
    return [path for path in entries if path.name[0] != "." and (path / RESULTS).is_file()]


def _maybe_float(value: Any) -> float | None:
    return None if value is None else float(value)
