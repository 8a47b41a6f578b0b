"""Results that travel: tidy rows and per-sample verdicts, small enough for git, and back again.

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
import re
import shutil
import uuid
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vexp import __version__
from vexp.errors import RunError
from vexp.files import (
    new_folder,
    read_json,
    storage_errors,
    write_bytes,
    write_json,
    write_text,
)
from vexp.runs import switch
from vexp.runs.claim import DONE, attempt_folder
from vexp.runs.evaluations import RESULTS, SAMPLES, read_results, read_samples
from vexp.runs.provenance import RECORD as PROVENANCE
from vexp.runs.rows import evaluation_folders, run_rows
from vexp.runs.store import RECORD, RESULT, RunFolder, RunStore

FORMAT = 1
INDEX = "export.json"
_VERDICT = ("id", "dataset", "tag", "correct", "status", "length")
_VALUE = "values."  # begins the columns of what else was measured of a sample
_ROW = ("run", "seed", "evaluation", "metric", "value", "stderr", "n", "checkpoint")
_NAME = re.compile(r"[A-Za-z0-9_+=,@-][A-Za-z0-9._+=,@-]*")


@dataclass
class Imported:
    """What an import brought."""

    runs: list[str] = field(default_factory=list)  # new here
    evaluations: int = 0
    skipped: dict[str, str] = field(default_factory=dict)  # run -> why


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


def import_(store: RunStore, source: Path) -> Imported:
    """Bring an export back as finished evaluations. What is here already is never changed.

    Raises:
        RunError: if `source` is no export, is damaged, or was written by a newer vexp.
    """
    files = _read(source)
    report = Imported()
    for name in files.index["runs"]:
        content = files.json(f"runs/{_safe(name, source)}.json")
        verdicts = {
            folder: files.verdicts(f"verdicts/{name}/{_safe(folder, source)}.csv")
            for folder in content["evaluations"]
        }
        _import_run(store, name, content, verdicts, report)
    return report


def _index(runs: list[RunFolder]) -> dict[str, str]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_ROW)
    for run in runs:
        for row in run_rows(run):
            writer.writerow(_cell(getattr(row, name)) for name in _ROW)
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
        writer.writerow([*_VERDICT, *(_VALUE + name for name in measured)])
        for sample in samples:
            values = sample.get("values", {})
            cells = [*(sample[name] for name in _VERDICT), *map(values.get, measured)]
            writer.writerow(map(_cell, cells))
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


def _cell(value: Any) -> Any:
    return "" if value is None else repr(value) if isinstance(value, float) else value


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


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


@dataclass(frozen=True)
class _Files:
    """The files of an export by name."""

    source: Path
    content: Mapping[str, bytes]

    @property
    def index(self) -> dict[str, Any]:
        return self.json(INDEX)

    def json(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads(self.content[name])
        except (KeyError, ValueError) as error:
            raise self._damaged(name) from error
        if not isinstance(found, dict):
            raise self._damaged(name)
        return found

    def verdicts(self, name: str) -> list[dict[str, Any]]:
        try:
            reader = csv.DictReader(io.StringIO(self.content[name].decode("utf-8"), newline=""))
            return [_sample(row) for row in reader]
        except (KeyError, ValueError, TypeError) as error:
            raise self._damaged(name) from error

    def _damaged(self, name: str) -> RunError:
        state = "damaged" if name in self.content else "missing"
        return RunError(
            f"{name} of this export is {state}",
            where=str(self.source),
            accepted="a folder or `.zip` file written by `vexp export`",
            remedy="export it again; nothing of the rest is lost",
        )


def _read(source: Path) -> _Files:
    content: dict[str, bytes] = {}
    if source.is_dir():
        for path in (p for p in source.rglob("*") if p.is_file()):
            content[path.relative_to(source).as_posix()] = path.read_bytes()
    elif zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
    files = _Files(source, content)
    index = files.index
    if not isinstance(index.get("runs"), list) or not isinstance(index.get("format"), int):
        raise files._damaged(INDEX)
    if index["format"] > FORMAT:
        raise RunError(
            f"this export was written by a newer vexp ({index.get('vexp', 'unknown')})",
            where=str(source),
            accepted=f"formats up to {FORMAT}; this is format {index['format']}",
            remedy="update vexp",
        )
    return files


def _sample(row: Mapping[str, str]) -> dict[str, Any]:
    """One line of a verdict file as a line of samples.jsonl."""
    verdict: dict[str, Any] = {name: row[name] for name in _VERDICT}
    verdict |= {"correct": float(row["correct"]), "length": int(row["length"])}
    cells = ((name.removeprefix(_VALUE), row[name]) for name in row if name.startswith(_VALUE))
    values = {name: float(cell) for name, cell in cells if cell}
    return verdict | ({"values": values} if values else {})


def _safe(name: Any, source: Path) -> str:
    """A name that stays inside its folder."""
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise RunError(f"this export names a run or evaluation {name!r}", where=str(source))


def _import_run(
    store: RunStore,
    name: str,
    content: Mapping[str, Any],
    verdicts: Mapping[str, list[dict[str, Any]]],
    report: Imported,
) -> None:
    ending = f"-{name.rpartition('-')[2]}"
    here = next((run for run in store.runs() if run.name.endswith(ending)), None)
    if here is None:
        _create(store.runs_dir / name, content)
        here = RunFolder(store.runs_dir / name)
        report.runs.append(name)
    result = here.result()
    if result is None:
        report.skipped[name] = "it is here already and not finished; the export adds nothing to it"
    elif result["checkpoint_hash"] != content["result"]["checkpoint_hash"]:
        report.skipped[name] = "it was trained here to other weights; the ones here are kept"
    else:
        for folder, results in content["evaluations"].items():
            report.evaluations += _add_evaluation(here, folder, results, verdicts[folder])


def _create(folder: Path, content: Mapping[str, Any]) -> None:
    """A run folder that is done, with results only."""
    with new_folder(folder) as aside:
        own = attempt_folder(aside, 1)
        own.mkdir(parents=True)
        write_json(own / RESULT, content["result"])
        write_json(own / PROVENANCE, content["provenance"])
        if (content["provenance"] or {}).get("switches"):
            switch.write_record(aside, switch.parsed(content["provenance"], str(folder)))
        write_json(aside / RECORD, dict(content["record"]) | {"imported": True})
        write_json(aside / DONE, {"attempt": 1, "imported": True})


def _add_evaluation(
    run: RunFolder, name: str, results: Mapping[str, Any], samples: list[dict[str, Any]]
) -> int:
    """Add one evaluation unless it is here; how many were added."""
    if any(folder.name.endswith(f"-{results['key']}") for folder in evaluation_folders(run)):
        return 0
    with new_folder(run.evaluations_dir / name) as aside:
        lines = (json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
        write_text(aside / SAMPLES, "".join(lines))
        write_json(aside / RESULTS, dict(results))
    return 1
