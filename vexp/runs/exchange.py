"""Results that travel: tidy rows and per-sample verdicts, small enough for git.

export.json                        format, vexp version, names of the runs
rows.csv                           run, seed, evaluation, metric, value, stderr, n: for people
runs/<run>.json                    record, result, provenance and results of one run
verdicts/<run>/<label>-<key>.csv   id, dataset, tag, correct, status, length of every sample, and
                                   what else was measured of it (`values.<name>`); no responses
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import uuid
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vexp import __version__, masking
from vexp.csv_cells import cell
from vexp.errors import RunError
from vexp.files import (
    read_json,
    storage_errors,
    write_bytes,
    write_text,
)
from vexp.runs.claim import attempt_folder
from vexp.runs.evaluations import read_results, read_samples
from vexp.runs.provenance import RECORD as PROVENANCE
from vexp.runs.rows import evaluation_folders, run_rows
from vexp.runs.store import RunFolder, RunStore

FORMAT = 1
INDEX = "export.json"
VERDICT = ("id", "dataset", "tag", "correct", "status", "length")
VALUE = "values."  # begins the columns of what else was measured of a sample
_ROW = ("run", "seed", "evaluation", "metric", "value", "stderr", "n", "checkpoint")


def export(store: RunStore, target: Path, names: Iterable[str] | None = None) -> list[str]:
    """Write the results of finished runs (all, or those named) to a folder or a `.zip` file.

    Returns the names of the runs that are in it. An earlier export at `target` is replaced.

    Raises:
        RunError: if no chosen run is finished, or `target` is something else than an export.
    """
    chosen = None if names is None else set(names)
    runs = [r for r in store.runs() if (chosen is None or r.name in chosen) and r.result()]
    if not runs:
        raise RunError(
            "there is nothing to export: none of these runs is finished",
            where=str(store.runs_dir),
            remedy="`vexp run` or `vexp launch` finishes them",
        )
    files = _index(runs)
    for run in runs:
        files |= _run_files(run)
    if target.suffix == ".zip":
        write_bytes(target, _zipped(files))
    else:
        _write_folder(target, files)
    return [run.name for run in runs]


def _index(runs: list[RunFolder]) -> dict[str, str]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_ROW)
    for run in runs:
        for row in run_rows(run):
            writer.writerow(cell(getattr(row, name)) for name in _ROW)
    index = {"format": FORMAT, "vexp": __version__, "runs": [run.name for run in runs]}
    return {INDEX: _json(index), "rows.csv": text.getvalue()}


def _run_files(run: RunFolder) -> dict[str, str]:
    """Files of an export that hold one run."""
    files: dict[str, str] = {}
    evaluations: dict[str, Any] = {}
    for folder in evaluation_folders(run):
        evaluations[folder.name] = dict(read_results(folder))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        samples = read_samples(folder)
        measured = sorted({name for sample in samples for name in sample.get("values", ())})
        writer.writerow([*VERDICT, *(VALUE + name for name in measured)])
        for sample in samples:
            values = sample.get("values", {})
            cells = [*(sample[name] for name in VERDICT), *map(values.get, measured)]
            writer.writerow(map(cell, cells))
        files[f"verdicts/{run.name}/{folder.name}.csv"] = text.getvalue()
    own = attempt_folder(run.folder, run.published() or 0)
    files[f"runs/{run.name}.json"] = _json(
        {
            "record": dict(run.record),
            "result": run.result(),
            "provenance": read_json(own / PROVENANCE),
            "evaluations": evaluations,
        }
    )
    return files


def _json(content: Any) -> str:
    """A file of an export; runs of a former vexp may hold what is masked now."""
    text = json.dumps(masking.exported(content), indent=1, ensure_ascii=False, allow_nan=False)
    return f"{text}\n"


def _zipped(files: Mapping[str, str]) -> bytes:
    """A zip with the same bytes for the same results: no dates."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name), files[name], zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _write_folder(target: Path, files: Mapping[str, str]) -> None:
    if target.exists() and not (target / INDEX).is_file() and any(target.iterdir()):
        raise RunError(
            "the folder to export to holds something else",
            where=str(target),
            remedy="name a new folder, a `.zip` file, or an earlier export",
        )
    aside, former = (
        target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp") for _ in range(2)
    )
    with storage_errors(target):
        try:
            for name, text in files.items():
                write_text(aside / name, text)
            if target.exists():
                target.rename(former)
            aside.rename(target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            shutil.rmtree(former, ignore_errors=True)
