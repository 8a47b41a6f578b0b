"""An export of vexp becomes finished runs here: all of it is checked before anything is written."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from vexp import records
from vexp.csv_cells import plain
from vexp.errors import RunError
from vexp.files import new_folder, read_bytes, write_json, write_text
from vexp.record_json import as_plain
from vexp.runs import engine_switch, trust
from vexp.runs.claim import DONE, attempt_folder
from vexp.runs.evaluations import RESULTS, SAMPLES
from vexp.runs.exchange import FORMAT, INDEX, VALUE, VERDICT
from vexp.runs.imports.archive import Archive, opened
from vexp.runs.imports.reading import decoded, json_of, safe_name, shaped
from vexp.runs.provenance import RECORD as PROVENANCE
from vexp.runs.record import RECORD, contradiction
from vexp.runs.rows import evaluation_folders
from vexp.runs.status import RESULT
from vexp.runs.store import RunFolder, RunStore

_RUN = re.compile(r".*-[0-9a-f]{12}")
_LONGEST_CELL = 1 << 20


class _Index(msgspec.Struct):
    format: int
    runs: list[str]
    vexp: str = "unknown"


class _Plugins(msgspec.Struct):
    plugins: list[str] = []


class _Content(msgspec.Struct):
    """What runs/<run>.json holds; its parts are kept as they are, fields of a later vexp too."""

    record: dict[str, Any]
    result: dict[str, Any]
    provenance: dict[str, Any] | None
    evaluations: dict[str, dict[str, Any]]


@dataclass
class Imported:
    """What an import brought."""

    runs: list[str] = field(default_factory=list)  # new here
    evaluations: int = 0
    skipped: dict[str, str] = field(default_factory=dict)  # run -> why
    trusted: dict[str, list[str]] = field(default_factory=dict)  # run -> files of code
    code: dict[str, list[str]] = field(default_factory=dict)  # run -> files that are not trusted


@dataclass(frozen=True)
class _Run:
    """A run of an export, checked."""

    name: str
    content: _Content
    verdicts: Mapping[str, list[dict[str, Any]]]  # samples of each evaluation, by its folder


def import_(store: RunStore, source: Path, *, trusting: bool = False) -> Imported:
    """Bring an export back as finished evaluations. What is here already is never changed.

    With `trusting`, the code that its runs name may be loaded, as it is now.

    Raises:
        RunError: if `source` is no export, is damaged, or was written by a newer vexp; nothing was
            imported then.
    """
    with opened(source) as archive:
        runs = [_checked(archive, name) for name in _names(archive)]
    report = Imported()
    for run in runs:
        _import_run(store, run, report, trusting)
    return report


def _names(archive: Archive) -> list[str]:
    """The runs of an export, by its index."""
    index = shaped(_json(archive, INDEX), _Index, f"{INDEX} of this export", archive.source)
    if index.format > FORMAT:
        raise RunError(
            f"this export was written by a newer vexp ({index.vexp})",
            where=str(archive.source),
            accepted=f"formats up to {FORMAT}; this is format {index.format}",
            remedy="update vexp",
        )
    for name in index.runs:
        safe_name(name, "a run or evaluation", f"{archive.source}: {INDEX}")
        if not _RUN.fullmatch(name):
            raise archive.refused(f"{INDEX} names a run {name!r}, which has no id of a run")
    if len(set(index.runs)) < len(index.runs):
        raise archive.refused(f"{INDEX} names a run twice")
    return index.runs


def _json(archive: Archive, name: str) -> Any:
    where = f"{archive.source}: {name}"
    try:
        return json_of(decoded(archive.read(name), where, noun="file of an export"))
    except ValueError as error:
        raise archive.refused(f"{name} of this export is damaged: {error}") from error


def _checked(archive: Archive, name: str) -> _Run:
    """A run of the export, of which all that is read later has the right types."""
    file = f"runs/{name}.json"
    what, where = f"{file} of this export", archive.source
    content = shaped(_json(archive, file), _Content, what, where)
    record = shaped(content.record, records.Run, f"record in {what}", where)
    shaped(record.config, _Plugins, f"config in {what}", where)
    if record.format > 1 or record.hash not in ("", name.rpartition("-")[2]):
        raise archive.refused(f"record in {what} is of another run, or of a newer vexp")
    if record.hash and (why := contradiction(record)):
        raise archive.refused(f"record in {what} contradicts itself: {why}")
    result = shaped(content.result, records.Result, f"result in {what}", where)
    if result.format > records.Result.newest:
        raise archive.refused(f"result in {what} was written by a newer vexp")
    if not (result.checkpoint or "").isprintable():
        raise archive.refused(f"result in {what} names a checkpoint with control characters")
    if (content.provenance or {}).get("switches"):
        engine_switch.parsed(content.provenance, f"{where}: {file}")
    verdicts = {}
    for folder, results in content.evaluations.items():
        found = _results(archive, folder, results, what)
        samples = list(_verdicts(archive, f"verdicts/{name}/{folder}.csv"))
        if found.evaluator != "imported" and found.samples not in (None, len(samples)):
            raise archive.refused(
                f"evaluation {folder} in {what} is of {found.samples} samples, and its verdict "
                f"file has {len(samples)}"
            )
        verdicts[folder] = samples
    _check_numbers(archive, content, what)
    return _Run(name, content, verdicts)


def _results(archive: Archive, folder: str, results: dict[str, Any], what: str) -> records.Results:
    """
    Raises:
        RunError: if this is not the content of a results.json of the evaluation in `folder`.
    """
    safe_name(folder, "a run or evaluation", f"{archive.source}: {what}")
    place = f"evaluation {folder} in {what}"
    found = shaped(results, records.Results, place, archive.source)
    safe_name(found.key, "an evaluation", f"{archive.source}: {place}")
    if not folder.endswith(f"-{found.key}") or found.format > 1:
        raise archive.refused(f"{place} is of another evaluation, or of a newer vexp")
    for name, metric in found.metrics.items():
        if not math.isfinite(metric.value) or not math.isfinite(metric.stderr or 0):
            raise archive.refused(f"metric {name!r} of {place} is no finite number")
    return found


def _check_numbers(archive: Archive, content: _Content, what: str) -> None:
    """JSON files hold no NaN: what could not be written later is refused now."""
    try:
        json.dumps(msgspec.structs.asdict(content), allow_nan=False)
    except ValueError as error:
        raise archive.refused(f"{what} holds NaN or Infinity, which no JSON file has") from error


def _verdicts(archive: Archive, name: str) -> Iterator[dict[str, Any]]:
    """The samples of a verdict file, as lines of samples.jsonl."""
    text = decoded(archive.read(name), f"{archive.source}: {name}", noun="verdict file")
    former = csv.field_size_limit(_LONGEST_CELL)
    try:
        reader = csv.reader(io.StringIO(text, newline=""))
        columns = next(reader, [])
        for row in reader:
            yield _sample(columns, row)
    except (ValueError, KeyError, csv.Error) as error:
        where = f"line {reader.line_num}: {error}"
        raise archive.refused(f"{name} of this export is damaged, {where}") from error
    finally:
        csv.field_size_limit(former)


def _sample(columns: list[str], cells: list[str]) -> dict[str, Any]:
    """
    Raises:
        ValueError, KeyError: if the line is none of a verdict file.
    """
    if len(cells) != len(columns) or len(set(columns)) < len(columns):
        raise ValueError(f"{len(cells)} cells for {len(columns)} different columns")
    row = dict(zip(columns, cells, strict=True))
    verdict: dict[str, Any] = {name: plain(row[name]) for name in VERDICT}
    verdict |= {"correct": _finite(row["correct"]), "length": int(row["length"])}
    given = ((name.removeprefix(VALUE), row[name]) for name in row if name.startswith(VALUE))
    values = {name: _finite(cell) for name, cell in given if cell}
    return verdict | ({"values": values} if values else {})


def _finite(cell: str) -> float:
    value = float(cell)
    if not math.isfinite(value):
        raise ValueError(f"{cell} is no finite number")
    return value


def _import_run(store: RunStore, run: _Run, report: Imported, trusting: bool) -> None:
    name, content = run.name, run.content
    ending = f"-{name.rpartition('-')[2]}"
    here = next((found for found in store.runs() if found.name.endswith(ending)), None)
    if here is None:
        _create(store.runs_dir / name, content)
        here = RunFolder(store.runs_dir / name)
        report.runs.append(name)
    if here.imported and (files := trust.plugins_of(here.record)):
        _trust(here, files, report, trusting)
    result = here.result()
    if result is None:
        report.skipped[name] = "it is here already and not finished; the export adds nothing to it"
    elif result.checkpoint_hash != content.result["checkpoint_hash"]:
        report.skipped[name] = "it was trained here to other weights; the ones here are kept"
    else:
        for folder, results in content.evaluations.items():
            report.evaluations += _add_evaluation(here, folder, results, run.verdicts[folder])


def _create(folder: Path, content: _Content) -> None:
    """A run folder that is done, with results only."""
    kept = {key: value for key, value in content.record.items() if key != trust.TRUSTED}
    with new_folder(folder) as aside:
        own = attempt_folder(aside, 1)
        own.mkdir(parents=True)
        write_json(own / RESULT, content.result)
        write_json(own / PROVENANCE, content.provenance)
        if (content.provenance or {}).get("switches"):
            engine_switch.write_record(aside, engine_switch.parsed(content.provenance, str(folder)))
        write_json(aside / RECORD, kept | {"imported": True})
        write_json(aside / DONE, {"attempt": 1, "imported": True})


def _trust(run: RunFolder, files: tuple[str, ...], report: Imported, trusting: bool) -> None:
    """Note what code a run names; with `trusting`, that it may be loaded as it is now."""
    digests = trust.digests(files) if trusting else {}
    if digests:
        path = run.folder / RECORD
        record = as_plain(read_bytes(path), records.Run, path)
        write_json(path, record | {trust.TRUSTED: digests})
        report.trusted[run.name] = list(digests)
    if rest := [name for name in files if name not in digests]:
        report.code[run.name] = rest


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
