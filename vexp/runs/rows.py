"""Tidy result rows: one per run, evaluation and metric. What tables are made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vexp import records
from vexp.errors import Damaged
from vexp.files import names_in
from vexp.runs.claim import attempt_folder
from vexp.runs.evaluations import read_results
from vexp.runs.provenance import RECORD
from vexp.runs.record import flattened
from vexp.runs.store import RunFolder, RunStore


@dataclass(frozen=True)
class ResultRow:
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


def rows(store: RunStore, names: Iterable[str] | None = None) -> Iterator[ResultRow]:
    """Rows of all finished runs, or of those with these ids; in order of run, evaluation, metric.

    Raises:
        RunError: for a record or a result that is damaged or of a newer format.
    """
    chosen = None if names is None else set(names)
    for run in store.runs():
        if chosen is None or run.name in chosen:
            yield from run_rows(run)


def run_rows(run: RunFolder) -> Iterator[ResultRow]:
    """Rows of the published checkpoint of one run; none while it is unfinished."""
    for folder in evaluation_folders(run):
        yield from evaluation_rows(run, folder)


def evaluation_rows(run: RunFolder, folder: Path) -> Iterator[ResultRow]:
    """Rows of one evaluation; none while the run is unfinished, or if it is of other weights."""
    result = run.result()
    found = read_results(folder)
    if result is None or found.checkpoint != result.checkpoint_hash:
        return
    config, science = flattened(run.config), flattened(run.record.science)
    seed = config.get("seed", 0)
    if not isinstance(seed, int):
        raise Damaged(
            "run.json is damaged: `config.seed` is no number",
            where=str(run.folder),
            remedy=records.Run.remedy,
        )
    provenance = attempt_folder(run.folder, run.published() or 0) / RECORD
    for metric, entry in found.metrics.items():
        yield ResultRow(
            run=run.name,
            slug=run.slug,
            hash=run.hash,
            config=config,
            science=science,
            seed=seed,
            evaluation=found.name,
            evaluation_key=found.key,
            checkpoint=found.checkpoint,
            metric=metric,
            value=entry.value,
            stderr=entry.stderr,
            n=entry.n,
            folder=folder,
            provenance=provenance,
        )


def evaluation_folders(run: RunFolder) -> list[Path]:
    """Folders of a run's finished evaluations; whether one is damaged is told by reading it.

    Raises:
        Damaged: if they cannot be listed.
    """
    names = names_in(run.evaluations_dir)
    return [run.evaluations_dir / name for name in sorted(names) if name[0] != "." and "-" in name]
