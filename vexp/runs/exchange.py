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
import time
import uuid
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vexp import __version__, masking, records
from vexp.csv_cells import cell
from vexp.errors import Damaged, Problem, RunError
from vexp.files import (
    is_file,
    names_in,
    read,
    read_bytes,
    replace_folder,
    storage_errors,
    write_bytes,
    write_text,
)
from vexp.record_json import as_plain
from vexp.runs.claim import attempt_folder
from vexp.runs.evaluations import read_content, read_samples
from vexp.runs.provenance import RECORD as PROVENANCE
from vexp.runs.record import RECORD
from vexp.runs.rows import ResultRow, evaluation_folders, evaluation_rows
from vexp.runs.status import RESULT
from vexp.runs.store import RunFolder, RunStore

FORMAT = 1
INDEX = "export.json"
VERDICT = ("id", "dataset", "tag", "correct", "status", "length")
VALUE = "values."  # begins the columns of what else was measured of a sample
_ABSENT = {"dataset": "", "tag": "", "status": "", "length": 0}  # of imported verdicts
_ROW = ("run", "seed", "evaluation", "metric", "value", "stderr", "n", "checkpoint")
_OLD_S = 3600.0  # what is left over for so long belongs to nobody


@dataclass
class Exported:
    """What an export holds, and what should be in it and is not."""

    runs: list[str] = field(default_factory=list)
    missing: dict[str, Problem] = field(default_factory=dict)  # by what it is of


def export(store: RunStore, target: Path, names: Iterable[str] | None = None) -> Exported:
    """Write the results of finished runs (all, or those named) to a folder or a `.zip` file.

    What is damaged is left out and named. An earlier export at `target` is replaced at once.

    Raises:
        RunError: if no chosen run is finished, or `target` is something else than an export.
    """
    chosen = None if names is None else set(names)
    report, files = Exported(), dict[str, str]()
    rows: list[ResultRow] = []
    runs, broken = store.readable()
    for name, problem in broken.items():
        if chosen is None or name in chosen:
            report.missing[f"run {name}"] = problem
    for run in runs if chosen is None else (run for run in runs if run.name in chosen):
        try:
            if run.result() is not None:
                files |= _run_files(run, rows, report.missing)
                report.runs.append(run.name)
        except Damaged as error:
            report.missing[f"run {run.name}"] = error.problem
    if not report.runs:
        raise RunError(
            "there is nothing to export: none of these runs is finished and whole",
            where=str(store.runs_dir),
            accepted="; ".join(f"{name}: {wrong.what}" for name, wrong in report.missing.items()),
            remedy="`vexp run` or `vexp launch` finishes them",
        )
    files |= _index(report.runs, rows)
    if target.suffix == ".zip":
        write_bytes(target, _zipped(files))
    else:
        _write_folder(target, files)
    return report


def _index(runs: list[str], rows: Iterable[ResultRow]) -> dict[str, str]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_ROW)
    for row in rows:
        writer.writerow(cell(getattr(row, name)) for name in _ROW)
    index = {"format": FORMAT, "vexp": __version__, "runs": runs}
    return {INDEX: _json(index), "rows.csv": text.getvalue()}


def _run_files(
    run: RunFolder, rows: list[ResultRow], missing: dict[str, Problem]
) -> dict[str, str]:
    """Files of an export that hold one run; adds its rows, and names what is `missing` of it.

    Raises:
        Damaged: if nothing of the run can be exported.
    """
    files: dict[str, str] = {}
    evaluations: dict[str, Any] = {}
    own_rows: list[ResultRow] = []
    for folder in evaluation_folders(run):
        try:
            own_rows += evaluation_rows(run, folder)
            files[f"verdicts/{run.name}/{folder.name}.csv"] = _verdicts(read_samples(folder))
            evaluations[folder.name] = read_content(folder)
        except Damaged as error:
            missing[f"evaluation {folder.name} of run {run.name}"] = error.problem
    own = attempt_folder(run.folder, run.published() or 0)
    provenance = _maybe(own / PROVENANCE)
    if provenance is None:
        missing[f"provenance of run {run.name}"] = Problem(
            f"{PROVENANCE} is missing or damaged", where=str(own), remedy="restore it from a backup"
        )
    record, result = run.folder / RECORD, own / RESULT
    files[f"runs/{run.name}.json"] = _json(
        {
            "record": as_plain(read_bytes(record), records.Run, record),
            "result": as_plain(read_bytes(result), records.Result, result),
            "provenance": provenance,
            "evaluations": evaluations,
        }
    )
    whole = (row for row in own_rows if row.folder.name in evaluations)
    rows.extend(sorted(whole, key=lambda row: row.folder.name))
    return files


def _verdicts(samples: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    measured = sorted({name for sample in samples for name in sample.get("values", ())})
    writer.writerow([*VERDICT, *(VALUE + name for name in measured)])
    for sample in samples:
        whole, values = _ABSENT | sample, sample.get("values", {})
        writer.writerow(map(cell, [*(whole[name] for name in VERDICT), *map(values.get, measured)]))
    return text.getvalue()


def _maybe(path: Path) -> dict[str, Any] | None:
    """A file that only informs; None if it is not there or is damaged."""
    try:
        return read(path, dict[str, Any])
    except Damaged:
        return None


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
    if target.exists() and not is_file(target / INDEX) and any(names_in(target)):
        raise RunError(
            "the folder to export to holds something else",
            where=str(target),
            remedy="name a new folder, a `.zip` file, or an earlier export",
        )
    for left in target.parent.glob(f".{target.name}.*.tmp"):  # of an export that was killed
        if time.time() - left.stat().st_mtime > _OLD_S:
            shutil.rmtree(left, ignore_errors=True)
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    with storage_errors(target):
        try:
            for name, text in files.items():
                write_text(aside / name, text)
            replace_folder(aside, target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
